#!/bin/bash
# Run one training stage on several nodes under Slurm; before the time limit, save and queue again.
#
#   sbatch configs/phi4_mini/slurm.sh midtrain
#
#SBATCH --job-name=reasontune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append

stage=${1:-midtrain}
log=runs/phi4_mini/logs/slurm-$stage-$SLURM_JOB_ID.log
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
mkdir -p "$(dirname "$log")"
source .venv/bin/activate
# how long torchrun waits for ranks that finish their step and save; its default is 30 seconds
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=280

# From Slurm 22.05 on, srun no longer takes over the job's --cpus-per-task.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  tune run --nnodes "$SLURM_NNODES" --nproc_per_node 8 --rdzv_id "$SLURM_JOB_ID" \
  --rdzv_backend c10d --rdzv_endpoint "$head:29500" \
  "recipes/$stage.py" --config "configs/phi4_mini/$stage.yaml" > "$log" 2>&1
status=$?

# A run that the signal stopped resumes by the same command. Any other failure needs a person.
if [ $status -ne 0 ] && grep -q "stopped after step" "$log"; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $status

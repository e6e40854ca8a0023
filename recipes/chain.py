"""Run a whole chain: every stage as a `tune run` process, an evaluation after each, a report.

    tune run recipes/chain.py --config configs/tiny/chain.yaml
    tune run recipes/chain.py --config configs/tiny/chain.yaml dry_run=true
    tune run recipes/chain.py --config configs/tiny/chain.yaml only=[sft,dpo]
    tune run recipes/chain.py --config configs/tiny/chain.yaml start_at=dpo
    tune run recipes/chain.py --config configs/tiny/chain.yaml seed=1 run_dir=runs/tiny-seed1

A stage is skipped when its manifest proves it complete with the same config, inputs and code. A stage
that was interrupted resumes from its last checkpoint. One that changed is run again from its start,
and so is every later stage whose inputs changed. Kill the chain at any time and start it again.
"""

import os
import signal
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

from custom_components.chain.chain_config import ChainConfig
from custom_components.chain.examine import ChainDoctor
from custom_components.chain.plan import Step, check_chain, chosen_steps, plan, state
from custom_components.config import UserError, recipe_main
from custom_components.hub import check_token, upload_model
from custom_components.report.ablation_table import print_ablation
from custom_components.report.chain_report import make_report
from custom_components.runs.processes import failure, launch, shown_and_logged, stopped


@recipe_main
def main(cfg: ChainConfig) -> None:
    """Run the stages of a chain."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("the chain is one process; set nproc_per_node of a stage instead")
    signal.signal(signal.SIGTERM, stopped)  # between stages; `shown_and_logged` waits for one
    steps = chosen_steps(cfg)
    check_chain(cfg, steps)  # a mistake in any stage's config ends the chain before its first stage
    actions = plan(steps)
    for step, action in zip(steps, actions, strict=True):
        print(f"{step.name:>16}  {action.reason}", flush=True)
    if cfg.dry_run:
        return

    run_dir, stages = Path(cfg.run_dir), [asdict(stage) for stage in cfg.stages]
    write_report = partial(make_report, run_dir, cfg.task, stages, cfg.compare)
    chosen = {step.name for step in steps}
    pushed = {s.name: s.push_to_hub for s in cfg.stages if s.push_to_hub and s.name in chosen}
    if pushed:
        check_token(f"stages.{next(iter(pushed))}.push_to_hub")
    started = time.time()
    doctor = ChainDoctor(cfg)
    doctor.before_all(steps, actions)
    report, page = write_report()
    for step in steps:
        try:
            run_step(step, run_dir / "logs", doctor)
        except BaseException:
            try:
                write_report()
            except Exception as e:  # the report shows the failure, and must not hide it
                print(f"warning: no report: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
            raise
        report, page = write_report()

    if report["stages"]:
        print_ablation(report)
    for name, repository in pushed.items():
        key, model = f"stages.{name}.push_to_hub", run_dir / name / "model"
        print(f"uploaded: {upload_model(model, repository, key, cfg.push_private)}")
    print(f"\n{time.time() - started:.0f} s. Report: {page}", flush=True)


def run_step(step: Step, logs: Path, doctor: ChainDoctor) -> None:
    """Run one step as a `tune run` process, with its output on the terminal and in a log.

    Args:
        step: Step to run, unless it is complete by now.
        logs: Folder of the log.
        doctor: Doctor that examines the step before it starts.

    Raises:
        UserError: When the step fails, with its log and the line that matters, or when the doctor
            finds an error.
    """
    # the plan may be outdated: an earlier step has rewritten its output, perhaps bit for bit
    action = state(step)
    print(f"== {step.name}: {action.reason}", flush=True)
    if action.kind == "skip":
        return
    command = launch(step.name, step.arguments, step.nproc_per_node, step.nnodes)
    if action.kind == "rerun":
        command.append("resume=never")
    if action.kind != "continue":
        doctor.before(step)
    log = logs / f"{step.name.replace('/', '-')}.log"
    if code := shown_and_logged(command, log):
        raise UserError(failure(f"stage {step.name}", code, log))


if __name__ == "__main__":
    main()

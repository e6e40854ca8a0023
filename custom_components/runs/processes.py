"""Start the processes of a chain, stop them with it, log their output, and read their last words."""

import ctypes
import io
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import cast

from custom_components.config import UserError
from custom_components.runs.interruption import Interruption

PR_SET_PDEATHSIG = 1
TUNE = str(Path(sys.executable).with_name("tune"))
SRUN_OPTIONS = {"--cpus-per-task": "SLURM_CPUS_PER_TASK", "--gpus-per-node": "SLURM_GPUS_PER_NODE"}
"""Options of srun, and the variables that hold the job's values."""
ENDED = "ended with status "
EXCEPTION = re.compile(r"(?:\[rank\d+\]: ?)?((?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*)")


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies. Linux only; elsewhere do nothing.

    Otherwise a killed chain would leave behind a stage that keeps writing into its run folder.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the call
        os.kill(os.getpid(), signal.SIGKILL)


def last_words(log: Path) -> tuple[str | None, str]:
    """Read from a log why its process ended.

    Args:
        log: Log of a process. `ENDED` and the exit status are its last line if the process failed.

    Returns:
        (reason, last_line): reason is the last `error:` message, else the last exception, else the
        exit status; None if the process did not fail. last_line is the last line with a letter.
    """
    lines = log.read_text(errors="replace").replace("\r", "\n").splitlines()
    lines = [line.strip() for line in lines if re.search(r"[^\W\d_]", line)]
    status = lines.pop().removeprefix(ENDED) if lines and lines[-1].startswith(ENDED) else None
    last = (lines or ["no output"])[-1]
    errors = [line for line in lines if line.startswith(("error:", "error ("))]
    if errors:
        return errors[-1].removeprefix("error:").strip(), last
    if status is None:
        return None, last
    if status in ("-9", "137"):
        return f"killed by SIGKILL, perhaps for want of memory; last line: {last}", last
    matches = filter(None, map(EXCEPTION.fullmatch, lines))
    # torchrun raises a ChildFailedError of its own after a rank's exception
    exceptions = [m[1] for m in matches if "ChildFailedError" not in m[1]]
    return (exceptions or [f"ended with status {status}; last line: {last}"])[-1], last


def launch(name: str, arguments: list[str], processes: int = 1, nodes: int = 1) -> list[str]:
    """Return the command that runs a recipe in all of a step's processes, on all its nodes.

    Args:
        name: Name of the step, for the error message.
        arguments: Recipe file, `--config`, its YAML and overrides.
        processes: Number of processes on a node.
        nodes: Number of nodes.

    Raises:
        UserError: When Slurm has not allocated enough nodes to this process.
    """
    if nodes == 1:
        ranks = ["--nproc_per_node", str(processes)] if processes > 1 else []
        return [TUNE, "run", *ranks, *arguments]
    allocated = int(os.environ.get("SLURM_JOB_NUM_NODES", 0))
    head = platform.node() if allocated >= nodes else "<head node>"
    ranks = ["--nnodes", str(nodes), "--nproc_per_node", str(processes)]
    rendezvous = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"{head}:29500"]
    command = ["run", *ranks, *rendezvous, *arguments]
    if allocated >= nodes:
        srun = ["srun", f"--nodes={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
        # From Slurm 22.05 on, srun no longer takes over these from the job's own options.
        for option, variable in SRUN_OPTIONS.items():
            if value := os.environ.get(variable):
                srun.append(f"{option}={value}")
        return [*srun, TUNE, *command]
    raise UserError(
        f"stage {name} needs {nodes} nodes, and Slurm has allocated {allocated or 'none'}: start the "
        "chain in a job with enough of them (sbatch), or run this on every node and start the "
        f"chain again:\n  {shlex.join(['tune', *command])}"
    )


def stopped(number: int, _: object = None) -> None:
    """Say how to continue, and end the process with the status of a signal."""
    print("stopped; the same command continues", file=sys.stderr, flush=True)
    sys.exit(128 + number)


def shown_and_logged(command: list[str], log: Path) -> int:
    """Run a command, copy its output to the terminal and into a log, and return its status.

    The log of the previous attempt becomes `<name>.log.1`. SIGTERM is passed on to the command. After
    SIGTERM or Ctrl-C this process ends once the command has ended.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.is_file():
        log.replace(f"{log}.1")
    process: subprocess.Popen | None = None

    def pass_on(number: int) -> None:
        # the terminal sends Ctrl-C to the command too
        if process and number == signal.SIGTERM:
            process.terminate()

    stop = Interruption(pass_on)
    # torchrun kills its ranks 30 s after SIGTERM, before a long step has ended
    env = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "3600"} | os.environ
    with open(log, "wb") as file, stop.watch():
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            preexec_fn=die_with_parent,
        )
        if stop.signal:  # the signal came before the command could receive it
            process.terminate()
        output = cast(io.BufferedReader, process.stdout)
        while chunk := output.read1(65536):
            file.write(chunk)
            file.flush()
            sys.stdout.buffer.write(chunk)
            sys.stdout.flush()
        code = process.wait()
        if code and not stop.signal:
            file.write(f"\n{ENDED}{code}\n".encode())
    if stop.signal:
        stopped(stop.signal)
    return code


def failure(what: str, code: int, log: Path) -> str:
    """Return a message with a failed process's status, its log, and the line that matters."""
    reason, last_line = last_words(log)
    return f"{what} failed with status {code} (log: {log}): {reason or last_line}"

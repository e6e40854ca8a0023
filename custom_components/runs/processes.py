"""The processes of a chain: how they are started, stopped with it, logged, and what they said last."""

import ctypes
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from custom_components.config import UserError
from custom_components.runs.interruption import Interruption

PR_SET_PDEATHSIG = 1
TUNE = str(Path(sys.executable).with_name("tune"))


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies (Linux; elsewhere does nothing).

    Without it, killing a chain would leave a stage that goes on writing into its run folder.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died in between
        os.kill(os.getpid(), signal.SIGKILL)


ENDED = "ended with status "
EXCEPTION = re.compile(r"(?:\[rank\d+\]: ?)?((?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*)")


def last_words(log: Path) -> tuple[str | None, str]:
    """What a log says of why its process ended.

    Args:
        log: of a process; `ENDED` and its status stand last where it failed.

    Returns:
        (why it failed: its last `error:` line without that word, else the last exception, else its
        status where it has failed, else None; its last line with a letter).
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
    found = [m[1] for line in lines if (m := EXCEPTION.fullmatch(line))]
    raised = [line for line in found if "ChildFailedError" not in line]  # torchrun's own, of a rank
    if status in ("-9", "137"):
        return f"killed by SIGKILL, perhaps for want of memory; last line: {last}", last
    return (raised or [f"ended with status {status}; last line: {last}"])[-1], last


def launch(step: dict[str, Any]) -> list[str]:
    """The command that starts a step's processes, on all its nodes, up to the recipe's name.

    Raises:
        UserError: when it needs more nodes than this process may use.
    """
    nodes, processes = step["nnodes"], step["nproc_per_node"]
    if nodes == 1:
        return [TUNE, "run", *(["--nproc_per_node", str(processes)] * (processes > 1))]
    allocated = int(os.environ.get("SLURM_JOB_NUM_NODES", 0))
    head = platform.node() if allocated >= nodes else "$HEAD"
    line = [
        "tune",
        "run",
        "--nnodes",
        str(nodes),
        "--nproc_per_node",
        str(processes),
        "--rdzv_backend",
        "c10d",
        "--rdzv_endpoint",
        f"{head}:29500",
    ]
    if allocated < nodes:
        recipe = [*line, step["recipe"], "--config", step["config"], *step["overrides"]]
        raise UserError(
            f"stage {step['name']} needs {nodes} nodes, and {allocated or 'none'} are allocated by "
            "Slurm: start the chain in a job with enough of them (sbatch), or run this on every "
            f"node and start the chain again:\n  {shlex.join(recipe).replace('$HEAD', '<head node>')}"
        )
    srun = ["srun", f"--nodes={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    return [*srun, TUNE, *line[1:]]


def stopped(number: int, _: object = None) -> None:
    """End the process as the signal of this number does, with a word."""
    print("stopped; the same command continues", file=sys.stderr, flush=True)
    sys.exit(128 + number)


def shown_and_logged(command: list[str], log: Path) -> int:
    """Run a command, its output on the terminal and in a log; returns its status.

    The log of an earlier attempt becomes `<name>.log.1`. SIGTERM is passed on to the command; then, or
    after Ctrl-C, this process ends with it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.is_file():
        log.replace(f"{log}.1")
    process: subprocess.Popen | None = None
    # Ctrl-C reaches the stage by itself: it is in the terminal's foreground, too
    stop = Interruption(lambda number: process and number == signal.SIGTERM and process.terminate())
    # torchrun kills its ranks 30 s after it was asked to stop, before a long step has ended
    env = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "3600"} | os.environ
    with open(log, "wb") as file, stop.watch():
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            preexec_fn=die_with_parent,
        )
        if stop.signal:  # before it could receive one
            process.terminate()
        while chunk := process.stdout.read1(65536):
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
    """A failed process's status, log, and the line that matters."""
    error, last = last_words(log)
    return f"{what} failed with status {code} (log: {log}): {error or last}"

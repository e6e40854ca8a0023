"""Child processes: they end with their parent, and what they said last."""

import ctypes
import os
import re
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1


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

"""Child processes: they end with their parent, and what they said last."""

import ctypes
import os
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


def last_words(log: Path) -> tuple[str | None, str]:
    """(the last error of a stage's log, without `error:`, or None; its last line)."""
    lines = log.read_text(errors="replace").replace("\r", "\n").splitlines()
    lines = [line.strip() for line in lines if line.strip()]
    errors = [line for line in lines if line.startswith(("error:", "error ("))]
    error = errors[-1].removeprefix("error:").strip() if errors else None
    return error, (lines or ["no output"])[-1]

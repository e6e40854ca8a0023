"""An engine that stalls or dies ends the run with a message, never with a hang."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from custom_components.config import UserError

STALLED = 75  # EX_TEMPFAIL: the same command continues


@contextmanager
def watchdog(seconds: float, what: str) -> Iterator[None]:
    """End the process, non-zero, when the block takes longer than `seconds`.

    A stalled engine cannot be interrupted from Python, so the process leaves at once: step
    checkpoints are whole or absent, and torchrun ends the other ranks.

    Args:
        seconds: limit.
        what: what is being done, for the message.
    """

    def leave() -> None:
        print(
            f"\nerror: {what} made no progress for {seconds:g} s and was given up; the same "
            "command continues from the last checkpoint (engine_timeout sets the limit)",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        os._exit(STALLED)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def engine_call(what: str, seconds: float) -> Iterator[None]:
    """Run a call of an engine under the watchdog; its crash becomes one line.

    Raises:
        UserError: when the call fails otherwise than by a user's mistake.
    """
    try:
        with watchdog(seconds, f"the rollout engine ({what})"):
            yield
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as e:
        last = (str(e).strip().splitlines() or [type(e).__name__])[-1]
        raise UserError(
            f"the rollout engine failed ({what}): {type(e).__name__}: {last}; the same command "
            "continues from the last checkpoint"
        ) from e

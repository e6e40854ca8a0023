"""SIGTERM and Ctrl-C between two steps instead of within one."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOPS = (signal.SIGTERM, signal.SIGINT)
ECHO = 5.0
"""Seconds in which further signals are the same request: a terminal or Slurm signals every process,
and torchrun then its ranks once more."""


class Interruption:
    """Whether the run was asked to stop.

    Args:
        then: called with the signal's number.

    Attributes:
        signal: number of the first SIGTERM or SIGINT; 0 for none so far.
    """

    def __init__(self, then: Callable[[int], None] = lambda number: None) -> None:
        self.signal, self.then, self._since = 0, then, 0.0

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Take note of the first signal; one that comes `ECHO` later does what it always does."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python hands signals to the main thread alone
            return
        before = {number: signal.getsignal(number) for number in STOPS}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def note(number: int, _: object) -> None:
            if not self.signal:
                self.signal, self._since = number, time.monotonic()
                self.then(number)
            elif time.monotonic() - self._since > ECHO:
                restore()
                os.kill(os.getpid(), number)

        for number in STOPS:
            signal.signal(number, note)
        try:
            yield
        finally:
            restore()

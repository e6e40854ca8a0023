"""Turn SIGTERM and Ctrl-C into a request to stop between two steps."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOPS = (signal.SIGTERM, signal.SIGINT)
ECHO = 5.0
"""Seconds in which further signals count as the same request: a terminal or Slurm signals every
process, and torchrun then signals its ranks once more."""


class Interruption:
    """Keep the request to stop that a signal makes.

    Args:
        then: Function to call with the signal's number.

    Attributes:
        signal: Number of the first SIGTERM or SIGINT; 0 while there is none.
    """

    def __init__(self, then: Callable[[int], None] = lambda number: None) -> None:
        self.signal = 0
        self.then = then
        self._since = 0.0

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Note the first signal. One that comes more than `ECHO` later has its usual effect."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread alone
            return
        before = {number: signal.getsignal(number) for number in STOPS}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def note(number: int, _: object) -> None:
            if not self.signal:
                self.signal = number
                self._since = time.monotonic()
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

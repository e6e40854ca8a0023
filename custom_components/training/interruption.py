"""SIGTERM and Ctrl-C between two steps instead of within one."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOPS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Whether the run was asked to stop.

    Args:
        then: called with the signal's number.

    Attributes:
        signal: number of the first SIGTERM or SIGINT; 0 for none so far.
    """

    def __init__(self, then: Callable[[int], None] = lambda number: None) -> None:
        self.signal, self.then = 0, then

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Take note of the first signal; a second one does what it always does."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python hands signals to the main thread alone
            return
        before = {number: signal.getsignal(number) for number in STOPS}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def note(number: int, _: object) -> None:
            self.signal = number
            restore()
            self.then(number)

        for number in STOPS:
            signal.signal(number, note)
        try:
            yield
        finally:
            restore()

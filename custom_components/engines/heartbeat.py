"""Count signs of progress of an engine, for the watchdog."""

import itertools

_counter = itertools.count(1)
_latest = 0


def beat() -> None:
    """Record that there was progress."""
    global _latest
    _latest = next(_counter)


def beats() -> int:
    """Return a number that changes with every beat."""
    return _latest

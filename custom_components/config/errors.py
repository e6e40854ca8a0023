"""Report the mistakes of a user in one line."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Signal a mistake of the user in one line: what, where, and what to do."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or the valid names, for the end of an error message."""
    names = sorted(valid)
    by_lower = {v.lower(): v for v in names}
    match = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5)
    if match:
        return f"; did you mean {by_lower[match[0]]!r}?"
    return f"; valid: {', '.join(names)}" if names else ""

"""Decide whether an answer is right; no other code in this project does (docs/VERIFIER.md).

Importing this package imports neither torch nor sympy; the computer algebra is loaded by the
first comparison that needs it, in the pool's worker processes.
"""

from custom_components.verifier.decide import verify
from custom_components.verifier.pool.pool import VerifierPool
from custom_components.verifier.types import Item, Verdict

__all__ = ["Item", "Verdict", "VerifierPool", "verify"]

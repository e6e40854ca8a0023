"""Configure the verifier's pool as a node of the recipes' configs."""

from dataclasses import dataclass

from custom_components.config import option
from custom_components.verifier.pool.pool import VerifierPool


@dataclass
class VerifierConfig:
    """Configure the verifier's worker processes."""

    workers: int = option(2, "worker processes")
    time_limit: float = option(5.0, "seconds for one response")
    rounding: bool = option(
        False, "accept every decimal that rounds to a decimal gold (12.52 for 12.5)"
    )

    def open(self) -> VerifierPool:
        """Return a pool with these limits; use it as a context manager."""
        return VerifierPool(self.workers, self.time_limit, rounding=self.rounding)

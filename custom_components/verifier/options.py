"""The verifier's pool as a part of recipe configs."""

from dataclasses import dataclass

from custom_components.config import option


@dataclass
class VerifierConfig:
    """The verifier's pool."""

    workers: int = option(2, "worker processes")
    time_limit: float = option(5.0, "seconds for one response")

"""What goes wrong in RL, said by name while it can still be mended."""

from dataclasses import dataclass
from typing import Any

from custom_components.config import option


@dataclass
class AlarmConfig:
    """Thresholds of the alarms."""

    truncated: float = option(0.9, "share of truncated responses, with all rewards at -1")
    steps_without_positive: int = option(5, "steps in a row without a +1")
    entropy: float = option(1e-3, "mean entropy of a token, nats, below which it has collapsed")
    logprob_gap: float = option(0.1, "mean |trainer - engine| log-prob of a token")
    undecided: float = option(0.05, "share of responses that the verifier could not judge")


class Alarms:
    """Watches the metrics of one step after the other.

    Args:
        config: thresholds.
        without_positive, active: `state()` of a run that goes on.
    """

    def __init__(
        self, config: AlarmConfig, without_positive: int = 0, active: tuple[str, ...] | list = ()
    ) -> None:
        self.config = config
        self.without_positive = without_positive
        self.active: set[str] = set(active)

    def state(self) -> dict[str, Any]:
        """What a run that goes on has to know."""
        return {"without_positive": self.without_positive, "active": sorted(self.active)}

    def check(self, stats: dict[str, float]) -> list[str]:
        """Alarms that this step raises and the step before did not.

        Args:
            stats: the step's metrics: accuracy, truncated, undecided and, where something was
                learned, entropy and logprob_gap.
        """
        config = self.config
        self.without_positive = 0 if stats["accuracy"] > 0 else self.without_positive + 1
        raised = {
            "all rewards are -1 and most responses are cut off: raise max_new_tokens": (
                stats["accuracy"] == 0 and stats["truncated"] > config.truncated
            ),
            f"no correct response for {config.steps_without_positive} steps: easier problems, or "
            "more SFT first": self.without_positive >= config.steps_without_positive,
            "the entropy has collapsed: lower optimizer.lr or stop": (
                stats.get("entropy", config.entropy) < config.entropy
            ),
            "engine and trainer disagree on log-probs: check their dtypes and LongRoPE branch": (
                stats.get("logprob_gap", 0.0) > config.logprob_gap
            ),
            "the verifier leaves many responses undecided: look at the golds": (
                stats["undecided"] > config.undecided
            ),
        }
        now = {message for message, holds in raised.items() if holds}
        fresh = [message for message in raised if message in now - self.active]
        self.active = now
        return fresh

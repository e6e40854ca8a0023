"""Name what goes wrong in an RL run while it can still be fixed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from custom_components.config import option


@dataclass
class AlarmConfig:
    """Configure the thresholds of the alarms."""

    truncated: float = option(0.9, "share of truncated responses, with all rewards at -1")
    steps_without_positive: int = option(5, "steps in a row without a +1")
    entropy: float = option(
        1e-3, "mean entropy of a token, nats, below which the policy counts as collapsed"
    )
    logprob_gap: float = option(0.1, "mean |trainer - engine| log-prob of a token")
    undecided: float = option(0.05, "share of responses that the verifier leaves undecided")


class Alarms:
    """Check the metrics of one step after the other.

    Args:
        config: Thresholds.
        without_positive: Steps in a row without a +1, from `state()` of a resumed run.
        active: Alarms of the last step, from `state()` of a resumed run.
    """

    def __init__(
        self, config: AlarmConfig, without_positive: int = 0, active: tuple[str, ...] | list = ()
    ) -> None:
        self.config = config
        self.without_positive = without_positive
        self.active: set[str] = set(active)

    def state(self) -> dict[str, Any]:
        """Return what a resumed run passes to the constructor."""
        return {"without_positive": self.without_positive, "active": sorted(self.active)}

    def check(self, stats: dict[str, float], reward_errors: Sequence[str] = ()) -> list[str]:
        """Return the alarms that this step raises and the step before did not.

        Args:
            stats: Metrics of the step: `accuracy`, `truncated`, `undecided` and, if there was an
                update, `entropy` and `logprob_gap`.
            reward_errors: Error of a reward function for each response that it failed on; the
                text before the colon names the function.
        """
        config = self.config
        self.without_positive = 0 if stats["accuracy"] > 0 else self.without_positive + 1
        conditions = {
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
        raised = [message for message, holds in conditions.items() if holds]
        new = [message for message in raised if message not in self.active]
        failures = Counter(error.partition(":")[0] for error in reward_errors)
        for name, responses in failures.items():
            condition = f"reward function {name} fails"
            raised.append(condition)
            if condition not in self.active:
                example = next(e for e in reward_errors if e.partition(":")[0] == name)
                new.append(f"{condition} on {responses} responses, which are left out; {example}")
        self.active = set(raised)
        return new

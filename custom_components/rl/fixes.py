"""Apply the paper's three fixes of GRPO: prompt selection, reward rebalancing, and annealing.

1. Prompt selection (`is_selected`): train only on prompts whose responses have uniform length.
2. Reward rebalancing (`needs_more`, `rebalance`): sample a hard prompt again until it has a correct
   response, and learn from as many incorrect responses as correct ones.
3. Temperature annealing (`annealed_temperature`): explore first, then sample closer to the mode.
"""

import random
from typing import Any

from custom_components.rl.groups import Group
from custom_components.rl.rl_config import SelectionConfig, TemperatureConfig


def is_selected(prompt: dict[str, Any], selection: SelectionConfig) -> bool:
    """Return whether to train on a prompt.

    Args:
        prompt: Row with the statistics of the prompt's sampled responses: `length_cv`,
            `length_range` and `pass_rate`.
        selection: Statistic that decides, its largest value, and the highest pass rate.
    """
    return (
        prompt[selection.statistic] <= selection.threshold
        and prompt["pass_rate"] <= selection.max_accuracy
    )


def needs_more(group: Group, max_samples: int) -> bool:
    """Return whether to sample a hard prompt again: no correct response yet, and below the cap.

    Args:
        group: Verified responses so far.
        max_samples: Number of responses from which on a prompt is not sampled again.
    """
    return len(group.samples) < max_samples and group.accuracy == 0


def rebalance(rewards: list[float], max_accuracy: float, rng: random.Random) -> list[int]:
    """Choose the responses of a group to learn from: every +1 and as many -1, drawn at random.

    Args:
        rewards: Rewards of the group, +1 or -1.
        max_accuracy: Largest share of +1. A group above it is dropped: its prompt is too easy.
        rng: Source of the draw.

    Returns:
        Indices into `rewards`, ascending. They are empty if the group is dropped, or has no +1 or
        no -1. Where +1 outnumber -1 (`max_accuracy` above a half), all are kept.
    """
    right = [i for i, r in enumerate(rewards) if r > 0]
    wrong = [i for i, r in enumerate(rewards) if r <= 0]
    if not right or not wrong or len(right) > max_accuracy * len(rewards):
        return []
    return sorted(right + rng.sample(wrong, min(len(right), len(wrong))))


def annealed_temperature(step: int, total_steps: int, annealing: TemperatureConfig) -> float:
    """Return the temperature of a step: linear from `start` to `end`, then constant.

    Args:
        step: Number of steps done so far (0 for the first step).
        total_steps: Steps of the whole run.
        annealing: First and last temperature, and the share of the steps over which it falls.
    """
    falling_steps = annealing.fraction * total_steps
    if step >= falling_steps:
        return annealing.end
    return annealing.start + (annealing.end - annealing.start) * step / falling_steps

"""Apply the paper's three fixes of GRPO: prompt selection, reward rebalancing, and annealing.

1. Prompt selection (`is_selected`): train only on prompts whose responses have uniform length.
2. Reward rebalancing (`needs_more`, `rebalance`): sample a hard prompt again until it has a correct
   response, and learn from as many incorrect responses as correct ones.
3. Temperature annealing (`annealed_temperature`): explore first, then sample closer to the mode.
"""

import random
from typing import Any

from custom_components.rl.groups import Group, Sample
from custom_components.rl.rl_config import RebalanceConfig, SelectionConfig, TemperatureConfig


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


def rebalance(samples: list[Sample], options: RebalanceConfig, rng: random.Random) -> list[Sample]:
    """Choose the responses of a group to learn from: every correct one and as many incorrect ones.

    Args:
        samples: Verified responses of the group.
        options: Largest share of correct ones, above which a group is dropped because its prompt is
            too easy; and whether to leave out incorrect ones.
        rng: Source of the draw of the incorrect ones.

    Returns:
        Responses in their order. There are none if the group is dropped, or has no correct or no
        incorrect response. Where the correct ones outnumber the incorrect (`max_accuracy` above a
        half), all are kept.
    """
    correct = [i for i, s in enumerate(samples) if s.correct]
    incorrect = [i for i, s in enumerate(samples) if not s.correct and s.verdict != "undecided"]
    if not correct or not incorrect:
        return []
    if len(correct) > options.max_accuracy * (len(correct) + len(incorrect)):
        return []
    drawn = incorrect
    if options.equal:
        drawn = rng.sample(incorrect, min(len(correct), len(incorrect)))
    return [samples[i] for i in sorted(correct + drawn)]


def annealed_temperature(share: float, annealing: TemperatureConfig) -> float:
    """Return the temperature of a step: linear from `start` to `end`, then constant.

    Args:
        share: Share of the run that is done before the step (0 for the first step).
        annealing: First and last temperature, and the share of the run over which it falls.
    """
    if share >= annealing.fraction:
        return annealing.end
    return annealing.start + (annealing.end - annealing.start) * share / annealing.fraction

"""Hold sampled responses by prompt, and summarise a step's groups for the log."""

from dataclasses import dataclass, field
from typing import Any

from custom_components.data import curation
from custom_components.data.packing import IGNORE
from custom_components.engines.engine import Completion
from custom_components.rl.rewards import Response, Reward
from custom_components.tokenizer.chat import ChatTokenizer
from custom_components.training.distributed import World


@dataclass
class Sample:
    """Hold one response to learn from.

    Attributes:
        prompt_ids: Token ids of the prompt.
        completion: Token ids of the response, the engine's log-probs, and why it ended.
        text: Whole response, with the `<think>` that its prompt opened.
        verdict: correct, incorrect or undecided; empty until it is verified.
        outcome: Reward; None until the response is rewarded.
        advantage: Advantage relative to the group; set when the sample is chosen.
        group: Number of the group among all ranks' groups of the step; set when the sample is
            chosen.
    """

    prompt_ids: list[int]
    completion: Completion
    text: str
    verdict: str = ""
    outcome: Reward | None = None
    advantage: float = 0.0
    group: int = 0

    @property
    def reward(self) -> float | None:
        """Return the reward; None for a response that is left out, such as an undecided one."""
        return self.outcome.total if self.outcome else None

    @property
    def correct(self) -> bool:
        """Tell whether the response is correct and was not cut off."""
        return self.verdict == "correct" and not self.truncated

    @property
    def length(self) -> int:
        """Return the tokens of the response."""
        return len(self.completion.token_ids)

    @property
    def truncated(self) -> bool:
        """Tell whether the response was cut off at `max_new_tokens`."""
        return self.completion.finish_reason == "length"

    def response(self, limit: int) -> Response:
        """Return what a reward function sees, with the longest allowed length."""
        return Response(self.text, self.length, limit, self.truncated, self.verdict)

    def row(self) -> dict[str, Any]:
        """Return the sample as a row for `collate`: the response is scored, the prompt is not."""
        response = self.completion.token_ids
        ids = self.prompt_ids + response
        labels = [IGNORE] * len(self.prompt_ids) + response
        return {"input_ids": ids, "labels": labels, "lengths": [len(ids)]}


@dataclass
class Group:
    """Hold all responses to one prompt.

    Attributes:
        problem: Row with `problem` and `answer`.
        prompt_ids: Token ids of the prompt.
        samples: Responses so far, undecided ones included.
    """

    problem: dict[str, Any]
    prompt_ids: list[int]
    samples: list[Sample] = field(default_factory=list)

    @classmethod
    def of(cls, problem: dict[str, Any], tokenizer: ChatTokenizer) -> "Group":
        """Return a group without responses yet."""
        return cls(problem, tokenizer.encode_prompt(problem["problem"]))

    @property
    def rewarded(self) -> list[Sample]:
        """Return the samples with a reward."""
        return [s for s in self.samples if s.reward is not None]

    @property
    def rewards(self) -> list[float]:
        """Return the rewards of the samples that have one."""
        return [s.reward for s in self.samples if s.reward is not None]

    @property
    def mixed(self) -> bool:
        """Tell whether the rewards differ; if they do not, there is nothing to learn."""
        return len(set(self.rewards)) > 1

    @property
    def accuracy(self) -> float:
        """Share of correct responses among all samples, undecided ones included."""
        return sum(s.correct for s in self.samples) / len(self.samples)

    def length_statistics(self) -> dict[str, float]:
        """Return the statistics of the response lengths (see `curation.length_statistics`)."""
        return curation.length_statistics([s.length for s in self.samples])


def group_statistics(
    groups: list[Group], chosen: list[Sample], reward_names: list[str], world: World
) -> dict[str, float]:
    """Return statistics of a step's groups over all ranks.

    Args:
        groups: Rewarded groups of this rank.
        chosen: Samples of these groups that are learned from.
        reward_names: Names of the reward functions, in order.
        world: Ranks to sum over.

    Returns:
        `reward`: mean over the responses that have one.
        `reward_<name>`: mean of a reward function over the responses to which it gave a value.
        `no_reward_<name>`: share of responses to which it gave none.
        `accuracy`, `truncated`, `undecided`, `kept`: shares of responses.
        `all_wrong`, `hard`, `medium`, `easy`, `all_right`: shares of prompts by accuracy, with the
        borders at a third and two thirds.
        `kept_prompts`, `too_easy`: shares of prompts that are learned from, and that have different
        rewards but were dropped.
        `response_length`: mean number of tokens.
        `length_cv`: mean coefficient of variation of the lengths within a group.
        `prompts`, `responses`, `generated_tokens`: counts.
    """
    samples = [s for g in groups for s in g.samples]
    chosen_ids = {id(s) for s in chosen}
    kept = [any(id(s) in chosen_ids for s in g.samples) for g in groups]
    counts: dict[str, float] = {
        "groups": len(groups),
        "responses": len(samples),
        "rewarded": sum(len(g.rewards) for g in groups),
        "reward": sum(sum(g.rewards) for g in groups),
        "correct": sum(s.correct for s in samples),
        "undecided": sum(s.verdict == "undecided" for s in samples),
        "truncated": sum(s.truncated for s in samples),
        "tokens": sum(s.length for s in samples),
        "kept": len(chosen),
        "all_right": sum(g.accuracy == 1 for g in groups),
        "all_wrong": sum(g.accuracy == 0 for g in groups),
        "hard": sum(0 < g.accuracy <= 1 / 3 for g in groups),
        "medium": sum(1 / 3 < g.accuracy <= 2 / 3 for g in groups),
        "easy": sum(2 / 3 < g.accuracy < 1 for g in groups),
        "kept_prompts": sum(kept),
        "too_easy": sum(g.mixed and not k for g, k in zip(groups, kept, strict=True)),
        "length_cv": sum(g.length_statistics()["length_cv"] for g in groups),
    }
    for i, name in enumerate(reward_names):
        values = [s.outcome.values[i] for s in samples if s.outcome]
        given = [v for v in values if v is not None]
        counts |= {f"sum {name}": sum(given), f"given {name}": len(given)}
    sums = world.sums(counts)
    prompts, responses = sums["groups"], sums["responses"]
    by_function = {}
    for name in reward_names:
        given = sums[f"given {name}"]
        by_function[f"reward_{name}"] = sums[f"sum {name}"] / max(given, 1)
        by_function[f"no_reward_{name}"] = 1 - given / responses
    difficulties = ("all_wrong", "hard", "medium", "easy", "all_right")
    return {
        "reward": sums["reward"] / max(sums["rewarded"], 1),
        **by_function,
        "accuracy": sums["correct"] / responses,
        **{name: sums[name] / responses for name in ("truncated", "undecided", "kept")},
        **{name: sums[name] / prompts for name in (*difficulties, "kept_prompts", "too_easy")},
        "response_length": sums["tokens"] / responses,
        "length_cv": sums["length_cv"] / prompts,
        "prompts": prompts,
        "responses": responses,
        "generated_tokens": sums["tokens"],
    }

"""Hold sampled responses by prompt, and summarise a step's groups for the log."""

from dataclasses import dataclass, field
from typing import Any

from custom_components.data import curation
from custom_components.data.packing import IGNORE
from custom_components.engines.engine import Completion
from custom_components.rl.rewards import REWARDS
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
        advantage: Advantage relative to the group; set when the sample is chosen.
    """

    prompt_ids: list[int]
    completion: Completion
    text: str
    verdict: str = ""
    advantage: float = 0.0

    @property
    def reward(self) -> float:
        """Reward of the verdict; undecided responses have none (KeyError)."""
        return REWARDS[self.verdict]

    @property
    def length(self) -> int:
        """Return the tokens of the response."""
        return len(self.completion.token_ids)

    @property
    def truncated(self) -> bool:
        """Tell whether the response was cut off at `max_new_tokens`."""
        return self.completion.finish_reason == "length"

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
    def decided(self) -> list[Sample]:
        """Return the samples with a reward."""
        return [s for s in self.samples if s.verdict in REWARDS]

    @property
    def rewards(self) -> list[float]:
        """Return the rewards of the decided samples."""
        return [s.reward for s in self.decided]

    @property
    def mixed(self) -> bool:
        """Tell whether the rewards differ; if they do not, there is nothing to learn."""
        return len(set(self.rewards)) > 1

    @property
    def accuracy(self) -> float:
        """Share of correct responses among all samples, undecided ones included."""
        return sum(s.verdict == "correct" for s in self.samples) / len(self.samples)

    def length_statistics(self) -> dict[str, float]:
        """Return the statistics of the response lengths (see `curation.length_statistics`)."""
        return curation.length_statistics([s.length for s in self.samples])


def group_statistics(groups: list[Group], chosen: list[Sample], world: World) -> dict[str, float]:
    """Return statistics of a step's groups over all ranks.

    Args:
        groups: Verified groups of this rank.
        chosen: Samples of these groups that are learned from.
        world: Ranks to sum over.

    Returns:
        `reward`: mean over the decided responses.
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
    sums = world.sums(
        {
            "groups": len(groups),
            "responses": len(samples),
            "decided": sum(len(g.decided) for g in groups),
            "reward": sum(sum(g.rewards) for g in groups),
            "correct": sum(s.verdict == "correct" for s in samples),
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
    )
    prompts, responses = sums["groups"], sums["responses"]
    difficulties = ("all_wrong", "hard", "medium", "easy", "all_right")
    return {
        "reward": sums["reward"] / max(sums["decided"], 1),
        "accuracy": sums["correct"] / responses,
        "truncated": sums["truncated"] / responses,
        "undecided": 1 - sums["decided"] / responses,
        "kept": sums["kept"] / responses,
        **{name: sums[name] / prompts for name in (*difficulties, "kept_prompts", "too_easy")},
        "response_length": sums["tokens"] / responses,
        "length_cv": sums["length_cv"] / prompts,
        "prompts": prompts,
        "responses": responses,
        "generated_tokens": sums["tokens"],
    }

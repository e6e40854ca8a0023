"""Sampled responses on their way through an RL step."""

import random
from dataclasses import dataclass, field
from typing import Any

from custom_components.data import curation
from custom_components.data.packing import IGNORE
from custom_components.engines.engine import Completion, Engine, Sampling
from custom_components.rl.advantages import group_advantages
from custom_components.rl.rebalancing import rebalance
from custom_components.rl.rl_config import OverlongConfig
from custom_components.rl.shaping import soft_length_penalty
from custom_components.tokenizer.chat import ChatTokenizer
from custom_components.training.distributed import World
from custom_components.verifier import VerifierPool

REWARDS = {"correct": 1.0, "incorrect": -1.0}


@dataclass
class Sample:
    """One response to learn from.

    Attributes:
        prompt_ids: of the prompt.
        completion: ids, engine log-probs, why it ended.
        text: the response decoded.
        verdict: correct, incorrect or undecided.
        advantage: relative to its group.
    """

    prompt_ids: list[int]
    completion: Completion
    text: str
    verdict: str = ""
    advantage: float = 0.0

    @property
    def reward(self) -> float:
        """+1 or -1; undecided responses have none."""
        return REWARDS[self.verdict]

    @property
    def truncated(self) -> bool:
        return self.completion.finish_reason == "length"

    def row(self) -> dict[str, Any]:
        """As a row for `collate`: the response is scored, the prompt is not."""
        response = self.completion.token_ids
        ids = self.prompt_ids + response
        labels = [IGNORE] * len(self.prompt_ids) + response
        return {"input_ids": ids, "labels": labels, "lengths": [len(ids)]}


@dataclass
class Group:
    """All responses to one prompt.

    Attributes:
        problem: row with problem and answer.
        prompt_ids: its prompt.
        samples: responses so far, undecided ones included.
    """

    problem: dict[str, Any]
    prompt_ids: list[int]
    samples: list[Sample] = field(default_factory=list)

    @classmethod
    def of(cls, problem: dict[str, Any], tokenizer: ChatTokenizer) -> "Group":
        """A group without responses yet."""
        return cls(problem, tokenizer.encode_prompt(problem["problem"]))

    @property
    def decided(self) -> list[Sample]:
        return [s for s in self.samples if s.verdict in REWARDS]

    @property
    def rewards(self) -> list[float]:
        """Rewards of the decided samples."""
        return [s.reward for s in self.decided]

    @property
    def mixed(self) -> bool:
        """Whether it has both rewards: only then there is something to learn."""
        return len(set(self.rewards)) == 2

    @property
    def accuracy(self) -> float:
        """Share of correct ones among all samples, undecided ones included."""
        return sum(s.verdict == "correct" for s in self.samples) / len(self.samples)


def sample_round(
    groups: list[Group], n: int, sampling: Sampling, engine: Engine, tokenizer: ChatTokenizer
) -> list[Sample]:
    """Add n fresh responses to every group. Returns them, not yet judged."""
    fresh = []
    completions = engine.generate([g.prompt_ids for g in groups], n, sampling)
    for group, responses in zip(groups, completions, strict=True):
        new = [Sample(group.prompt_ids, c, tokenizer.decode(c.token_ids)) for c in responses]
        group.samples += new
        fresh += new
    return fresh


def judge(groups: list[Group], pool: VerifierPool) -> None:
    """Give every response without a verdict its own."""
    waiting = [(g, s) for g in groups for s in g.samples if not s.verdict]
    items = [
        {"gold": g.problem["answer"], "response": s.text, "truncated": s.truncated}
        for g, s in waiting
    ]
    for (_, sample), verdict in zip(waiting, pool.verify_all(items), strict=True):
        sample.verdict = verdict.verdict


def needs_more(group: Group, max_samples: int) -> bool:
    """Whether a hard prompt is to be sampled in another round: no +1 yet, and below the cap."""
    return len(group.samples) < max_samples and group.accuracy == 0


def choose(
    groups: list[Group],
    max_accuracy: float | None,
    normalise_std: bool,
    rng: random.Random,
    overlong: OverlongConfig | None = None,
    longest: int = 0,
) -> list[Sample]:
    """The samples to learn from, each with its advantage.

    Args:
        groups: judged.
        max_accuracy: rebalance each group, dropping those above (see `rebalance`); None keeps
            every decided sample.
        normalise_std: see `group_advantages`.
        rng: of the rebalancing.
        overlong: what to do with over-long responses; nothing when None.
        longest: longest allowed response, tokens.

    Returns:
        samples of all groups; none of a group whose rewards are all equal.
    """
    overlong = overlong or OverlongConfig()
    chosen = []
    for group in groups:
        samples = [s for s in group.decided if not (overlong.filter and s.truncated)]
        if max_accuracy is not None:
            kept = rebalance([s.reward for s in samples], max_accuracy, rng) if samples else []
            samples = [samples[i] for i in kept]
        if len({s.reward for s in samples}) < 2:
            continue
        rewards = [
            s.reward + soft_length_penalty(len(s.completion.token_ids), longest, overlong.buffer)
            for s in samples
        ]
        advantages = group_advantages(rewards, normalise_std)
        for sample, advantage in zip(samples, advantages, strict=True):
            sample.advantage = advantage
        chosen += samples
    return chosen


def group_statistics(groups: list[Group], chosen: list[Sample], world: World) -> dict[str, float]:
    """What a step's rollouts were like, over all ranks.

    Args:
        groups: this rank's.
        chosen: those of their samples that are learned from.
        world: to sum over the ranks.

    Returns:
        reward (mean of the decided), shares of prompts by their accuracy (all_wrong, hard, medium,
        easy, all_right, with the borders at a third and two thirds) and by what became of them
        (kept_prompts; too_easy: both rewards, but dropped), of responses (accuracy, truncated,
        undecided, kept), mean response length and its mean coefficient of variation within a
        group, and counts.
    """
    samples = [s for g in groups for s in g.samples]
    learned = {id(s) for s in chosen}
    kept = [any(id(s) in learned for s in g.samples) for g in groups]
    sums = world.sums(
        {
            "groups": len(groups),
            "responses": len(samples),
            "decided": sum(len(g.decided) for g in groups),
            "reward": sum(sum(g.rewards) for g in groups),
            "correct": sum(s.verdict == "correct" for s in samples),
            "truncated": sum(s.truncated for s in samples),
            "tokens": sum(len(s.completion.token_ids) for s in samples),
            "kept": len(chosen),
            "all_right": sum(g.accuracy == 1 for g in groups),
            "all_wrong": sum(g.accuracy == 0 for g in groups),
            "hard": sum(0 < g.accuracy <= 1 / 3 for g in groups),
            "medium": sum(1 / 3 < g.accuracy <= 2 / 3 for g in groups),
            "easy": sum(2 / 3 < g.accuracy < 1 for g in groups),
            "kept_prompts": sum(kept),
            "too_easy": sum(g.mixed and not k for g, k in zip(groups, kept, strict=True)),
            "length_cv": sum(length_statistics(g)["length_cv"] for g in groups),
        }
    )
    responses = sums["responses"]
    return {
        "reward": sums["reward"] / max(sums["decided"], 1),
        "accuracy": sums["correct"] / responses,
        "truncated": sums["truncated"] / responses,
        "undecided": 1 - sums["decided"] / responses,
        "kept": sums["kept"] / responses,
        **{
            name: sums[name] / sums["groups"]
            for name in (
                "all_wrong",
                "hard",
                "medium",
                "easy",
                "all_right",
                "kept_prompts",
                "too_easy",
            )
        },
        "response_length": sums["tokens"] / responses,
        "length_cv": sums["length_cv"] / sums["groups"],
        "prompts": sums["groups"],
        "responses": responses,
        "generated_tokens": sums["tokens"],
    }


def length_statistics(group: Group) -> dict[str, float]:
    """Response lengths of a group (see `curation.length_statistics`)."""
    return curation.length_statistics([len(s.completion.token_ids) for s in group.samples])


def prompt_row(group: Group) -> dict[str, Any]:
    """The prompt with the statistics of its responses, as in the prompts split."""
    return (
        group.problem
        | length_statistics(group)
        | {"pass_rate": group.accuracy, "samples": len(group.samples)}
    )

"""Selection samples shard by shard: a kill loses one, and it ends when there are enough prompts."""

from types import SimpleNamespace

import pytest
import torch

from custom_components.data.problems import table
from custom_components.engines.engine import Completion
from custom_components.rl import prompts
from custom_components.rl.groups import Group, Sample
from custom_components.rl.prompts import choose_candidates, sample_candidates, sample_shard
from custom_components.rl.rl_config import SelectionConfig
from custom_components.training.distributed import World

PROBLEMS = [
    {"id": str(i), "source": "s", "problem": f"p{i}", "answer": "1", "domain": None}
    | {"difficulty": None}
    for i in range(10)
]


class Killed(BaseException):
    """Stand for the end of the process."""


class Sampler:
    """Give every prompt responses of equal length; die in a call if told so."""

    def __init__(self, dies_in=None, **cfg):
        self.cfg = SimpleNamespace(
            seed=0,
            selection=SelectionConfig(rounds=2, samples=3),
            temperature=SimpleNamespace(start=1.0),
            max_new_tokens=8,
            batch_size=2,
            **{"max_steps": None, "max_generated_tokens": None} | cfg,
        )
        self.world = World(0, 1, torch.device("cpu"))
        self.dies_in = dies_in
        self.calls = []

    def empty_groups(self, problems):
        return [Group(problem, [1]) for problem in problems]

    def add_responses(self, groups, n, sampling):
        if len(self.calls) == self.dies_in:
            raise Killed
        self.calls.append([g.problem["id"] for g in groups] + [sampling.seed])
        assert not sampling.logprobs
        for group in groups:
            group.samples += [
                Sample([1], Completion([1] * 4, [], "stop"), "", "correct") for _ in range(n)
            ]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(prompts, "SHARD", 4)


def test_a_kill_loses_one_shard(tmp_path):
    whole = Sampler()
    rows = sample_candidates(whole, PROBLEMS, tmp_path / "whole")
    assert [row["id"] for row in rows] == [p["id"] for p in PROBLEMS]
    assert [len(call) - 1 for call in whole.calls] == [4, 4, 4, 4, 2, 2]
    seeds = [call[-1] for call in whole.calls]
    assert len(set(seeds)) == 6
    killed = Sampler(dies_in=3)  # in the second round of the second shard
    with pytest.raises(Killed):
        sample_candidates(killed, PROBLEMS, tmp_path / "killed")
    resumed = Sampler()
    again = sample_candidates(resumed, PROBLEMS, tmp_path / "killed")
    assert resumed.calls == whole.calls[2:]
    assert [row["samples"] for row in again] == [6] * 10
    assert [row["length_cv"] for row in again] == [row["length_cv"] for row in rows]


def test_it_ends_when_there_are_enough_prompts(tmp_path):
    sampler = Sampler(max_steps=3)  # 6 prompts at most
    assert len(sample_candidates(sampler, PROBLEMS, tmp_path)) == 6
    assert len(sampler.calls) == 4


def test_two_ranks_end_with_the_prompts_of_one(tmp_path):
    one = sample_candidates(Sampler(max_steps=1), PROBLEMS, tmp_path / "one")
    sampler = Sampler(max_steps=1)

    def gather(rows):
        return rows + sample_shard(Sampler(), PROBLEMS[4:8], 1, tmp_path / "two")

    sampler.world = SimpleNamespace(rank=0, size=2, gather=gather)
    assert sample_candidates(sampler, PROBLEMS, tmp_path / "two") == one
    assert len(one) == 2


def test_problems_that_their_own_statistics_rule_out_are_not_sampled(tmp_path):
    rows = [
        {"id": "a", "problem": "p", "answer": "1", "pass_rate": 0.5, "length_cv": 0.2},
        {"id": "b", "problem": "p", "answer": "1", "pass_rate": 0.5, "length_cv": 0.9},
        {"id": "c", "problem": "p", "answer": "1", "pass_rate": 1.0, "length_cv": 0.1},
    ]
    import json

    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    selection = SelectionConfig(rounds=1, threshold=0.5, max_accuracy=0.9)
    cfg = SimpleNamespace(selection=selection, seed=0)

    def ids(**options):
        return [row["id"] for row in choose_candidates(list(table(str(path), **options)), cfg)]

    assert ids(statistics=True) == ["a"]
    assert ids() == ["a", "b", "c"]

"""Check which prompts a step gets."""

import random
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from samples import group

from custom_components.config import load, schema_of
from custom_components.rl.prompts import PromptPool
from custom_components.training.distributed import World

PROMPTS = [{"id": str(i)} for i in range(10)]


def pool(limit=0.5, too_easy=(), rank=0, size=1):
    cfg = SimpleNamespace(no_resampling_above=limit, seed=0)
    return PromptPool(PROMPTS, cfg, World(rank, size, torch.device("cpu")), too_easy)


def ids(prompts):
    return [prompt["id"] for prompt in prompts]


def test_a_step_has_the_prompts_of_its_epoch():
    assert ids(pool().of_step([3, 1, 7], 0)) == ["3", "1", "7"]
    assert ids(pool(rank=1, size=2).of_step([3, 1, 7], 0)) == ["1"]


def test_others_take_the_place_of_prompts_that_are_too_easy():
    some = pool(too_easy=["1", "2"])
    replaced = ids(some.of_step([3, 1, 7], 0))
    assert replaced[:2] == ["3", "7"] and replaced[2] in "045689"
    assert ids(some.of_step([3, 1, 7], 0)) == replaced
    # The ranks of a step share its prompts.
    parts = [ids(pool(too_easy=["1", "2"], rank=r, size=2).of_step([3, 1, 7], 0)) for r in (0, 1)]
    assert sorted(parts[0] + parts[1]) == sorted(replaced)
    assert len({tuple(ids(some.of_step([3, 1, 7], step))) for step in range(20)}) > 1


def test_the_step_keeps_its_size_where_too_few_others_are_left():
    assert ids(pool(too_easy=list("0124567")).of_step([1, 2, 3, 4], 0))[0] == "3"
    batch = ids(pool(too_easy=list("0124567")).of_step([1, 2, 3, 4], 0))
    assert sorted(batch[1:3]) == ["8", "9"] and batch[3:] == ["1"]
    assert ids(pool(too_easy=list("0123456789")).of_step([1, 2], 0)) == ["1", "2"]


def test_prompts_are_dropped_above_the_pass_rate():
    some = pool(limit=0.5)
    half, most = group("correct", "incorrect"), group("correct", "correct", "incorrect")
    half.problem, most.problem = PROMPTS[4], PROMPTS[5]
    assert some.drop_too_easy([half, most]) == {"dropped_prompts": 1}
    assert some.too_easy == {"5"}
    assert pool(limit=1.0).drop_too_easy([group("correct")]) == {}


def test_refilling_leaves_out_what_was_sampled():
    drawn = ids(pool(too_easy=["0"]).others(PROMPTS[1:8], 5, random.Random(0)))
    assert sorted(drawn) == ["8", "9"]


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_selection_in_the_papers_configs_costs_less_than_half_of_the_run(name):
    """In responses, whatever the number of problems."""
    cfg = load(schema_of(name), ROOT / "configs" / "phi4_mini" / f"{name}.yaml", [])
    selection = cfg.selection
    assert selection.rounds and selection.candidates
    responses = selection.candidates * selection.rounds * selection.samples
    assert responses < cfg.max_steps * cfg.batch_size * cfg.group_size / 2


def test_the_papers_grpo_takes_the_mean_over_prompts():
    cfg = load(schema_of("grpo"), ROOT / "configs" / "phi4_mini" / "grpo.yaml", [])
    assert cfg.loss.resolve().aggregation == "prompt_mean"

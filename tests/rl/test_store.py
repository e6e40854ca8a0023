"""Check that stored groups come back as they were, and go when a checkpoint covers them."""

import torch

from custom_components.engines.engine import Completion
from custom_components.rl.groups import Group, Sample
from custom_components.rl.store import GroupStore
from custom_components.training.distributed import World


def groups(step):
    samples = [
        Sample([1, 2], Completion([3, 4], [-0.1, -1 / 3], "stop", step), "34", "correct"),
        Sample([1, 2], Completion([5], [-2.5], "length", step), "5", "undecided"),
    ]
    return [
        Group({"id": "a", "problem": "1+1=?", "answer": "2", "domain": None}, [1, 2], samples),
        Group({"id": "b", "problem": "2+2=?", "answer": "4", "domain": "é"}, [1], samples[:1]),
    ]


def test_what_is_saved_comes_back(tmp_path):
    store = GroupStore(tmp_path / "rollouts", World(0, 1, torch.device("cpu")))
    assert store.load(0) is None
    saved = groups(0)
    saved[1].samples = [Sample([1], Completion([6], [0.0], "stop"), "6", "incorrect")]
    store.save(0, saved, covered=0)
    assert store.load(0) == saved
    store.clear()
    assert not store.folder.exists()


def test_only_covered_steps_of_this_rank_are_removed(tmp_path):
    world = World(0, 1, torch.device("cpu"))
    store = GroupStore(tmp_path, world)
    for step in range(3):
        store.save(step, groups(step), covered=0)
    (tmp_path / "step_0.rank_1_of_2.parquet").touch()
    store.save(3, groups(3), covered=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "step_0.rank_1_of_2.parquet",
        "step_2.rank_0_of_1.parquet",
        "step_3.rank_0_of_1.parquet",
    ]

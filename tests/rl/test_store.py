"""Check that stored groups come back as they were, and go when a checkpoint covers them."""

import pyarrow.parquet as pq
import pytest
import torch

from custom_components.config import UserError
from custom_components.engines.engine import Completion
from custom_components.rl.groups import Group, Sample
from custom_components.rl.rewards import Reward
from custom_components.rl.store import GroupStore
from custom_components.training.distributed import World


def groups(step):
    error = "short: KeyError: 'x' (own.py, line 1)"
    samples = [
        Sample(
            [1, 2],
            Completion([3, 4], [-0.1, -1 / 3], "stop", step),
            "34",
            "correct",
            Reward(1 / 3, [1.0, -2 / 3]),
        ),
        Sample(
            [1, 2],
            Completion([5], [-2.5], "length", step),
            "5",
            "undecided",
            Reward(None, [None, 0.5], error),
        ),
    ]
    return [
        Group({"id": "a", "problem": "1+1=?", "answer": "2", "domain": None}, [1, 2], samples),
        Group({"id": "b", "problem": "2+2=?", "answer": "4", "domain": "é"}, [1], samples[:1]),
    ]


def test_what_is_saved_comes_back(tmp_path):
    store = GroupStore(tmp_path / "rollouts", World(0, 1, torch.device("cpu")))
    assert store.load(0) is None
    saved = groups(0)
    reward = Reward(-1.0, [-1.0, 0.0])
    saved[1].samples = [Sample([1], Completion([6], [0.0], "stop"), "6", "incorrect", reward)]
    store.save(0, saved, covered=0)
    assert store.load(0) == saved
    store.clear()
    assert not store.folder.exists()


def test_a_file_without_rewards_is_refused_in_one_line(tmp_path):
    store = GroupStore(tmp_path, World(0, 1, torch.device("cpu")))
    store.save(0, groups(0), covered=0)
    [path] = tmp_path.iterdir()
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["reward", "reward_values", "reward_error"]), path)
    with pytest.raises(
        UserError, match=f"written by another version of the code; delete {tmp_path}"
    ):
        store.load(0)


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

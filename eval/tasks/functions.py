"""What the task YAMLs beside this file refer to."""

from typing import Any

import datasets

from custom_components.data import column_addition as addition
from custom_components.data.problems import gsm8k
from custom_components.data.rows import Reject
from eval.scoring import score

__all__ = ["gsm8k_test", "score", "tiny_addition"]

FEATURES = datasets.Features(
    {name: datasets.Value("string") for name in ("id", "problem", "answer", "difficulty")}
)


def _dataset(problems: Any) -> dict[str, datasets.Dataset]:
    rows = [{name: p.get(name) for name in FEATURES} for p in problems if not isinstance(p, Reject)]
    return {"test": datasets.Dataset.from_list(rows, features=FEATURES)}


def tiny_addition(**_: Any) -> dict[str, datasets.Dataset]:
    """600 held-out additions of two to five digits (the distillation data end at four), the same
    for every seed of a chain."""
    return _dataset(addition.column_addition("eval", dict.fromkeys((2, 3, 4, 5), 150)))


def gsm8k_test(**_: Any) -> dict[str, datasets.Dataset]:
    """GSM8K's test problems, from the hub or `$REASONTUNE_DATA/gsm8k/test.jsonl`."""
    return _dataset(gsm8k(split="test"))

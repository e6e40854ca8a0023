"""Count the yield of a curation: what went in, what each filter removed, what came out."""

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from custom_components.data.splits import MIDTRAIN, PROMPT, SFT, Selection
from custom_components.data.verified import Records


def yield_table(
    records: Records, kept: np.ndarray, contaminated: np.ndarray, selection: Selection
) -> list[dict[str, Any]]:
    """Count the rollouts, what every filter removed, and the splits.

    Args:
        records: all verified rollouts.
        kept: whether each problem may be used at all, [problems] bool.
        contaminated: numbers of the problems that match an evaluation problem.
        selection: contents of the splits.

    Returns:
        [{"name", "rollouts", "problems", "length" (total, in tokens or characters)}].
    """
    right = records.verdict == 0
    usable = kept[records.problem]
    tainted = np.isin(records.problem, contaminated)
    long = records.too_long
    fit = right & usable
    rows = [("rollouts", np.ones(len(right), bool))]
    rows += [
        (name, records.verdict == code)
        for code, name in enumerate(("correct", "incorrect", "undecided"))
    ]
    rows += [
        ("contaminated", tainted),
        ("near-duplicate problem", ~usable & ~tainted),
        ("correct, cut off", fit & ~records.finished),
        ("correct, repetitive", fit & records.finished & records.repetitive),
        ("correct, too long", fit & records.finished & ~records.repetitive & long),
        ("midtrain", (selection.roles & MIDTRAIN) > 0),
        ("sft", (selection.roles & SFT) > 0),
        ("prompts", (selection.roles & PROMPT) > 0),
    ]
    table = [
        {
            "name": name,
            "rollouts": int(mask.sum()),
            "problems": len(np.unique(records.problem[mask])),
            "length": int(records.length[mask].sum(dtype=np.int64)),
        }
        for name, mask in rows
    ]
    sides = records.length[selection.pairs].astype(np.int64)
    table.append(
        {
            "name": "pairs",
            "rollouts": len(selection.pairs),
            "length": int(sides.sum()),
            "problems": len(np.unique(records.problem[selection.pairs[:, 0]])),
        }
    )
    return table


def print_yields(rows: list[dict[str, Any]], unit: str) -> None:
    """Print the yield table; `unit` of the lengths is tokens or characters."""
    table = Table(title="yield")
    for column in ("", "rollouts", "problems", unit):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        table.add_row(row["name"], *(f"{row[k]:,}" for k in ("rollouts", "problems", "length")))
    Console(width=100).print(table)

"""Draw the curves of a stage from its metrics.jsonl."""

import math
from pathlib import Path
from typing import Any

from custom_components.report.svg import line_chart, short
from custom_components.runs.metrics import logged_rows

PANELS = (
    ("Mean reward", ("reward",), False),
    ("Held-out accuracy", ("held_out_accuracy",), False),
    ("Accuracy on the batch", ("accuracy",), False),
    ("Reward margin", ("margin",), False),
    ("Log-prob of a response", ("logprob_chosen", "logprob_rejected"), False),
    ("Loss", ("loss",), True),
    ("Validation loss", ("val_loss",), False),
    ("Response length, tokens", ("response_length",), True),
    ("Pair lengths, tokens", ("length_chosen", "length_rejected"), True),
    ("Spread of lengths in a group", ("length_cv",), True),
    ("Cut off, undecided", ("truncated", "undecided"), True),
    ("Entropy, nats", ("entropy",), True),
    ("Temperature", ("temperature",), False),
    ("Kept", ("kept", "kept_prompts"), True),
    ("Prompts by accuracy", ("all_wrong", "hard", "medium", "easy", "all_right"), True),
    ("Log-prob gap, engine to trainer", ("logprob_gap",), True),
    ("Clipped tokens", ("clip_fraction",), True),
    ("KL to the start", ("kl",), False),
    ("Value explains", ("explained_variance",), False),
    ("Gradient norm", ("grad_norm",), True),
    ("Learning rate", ("lr",), True),
    ("Tokens per second", ("tokens_per_second",), True),
)
"""(title, keys of metrics.jsonl that share the panel, whether its axis begins at 0)."""


def stage_curves(folder: Path) -> list[dict[str, Any]]:
    """Return the panels of a run folder's metrics.

    Returns:
        [{"title", "svg", "keys": [{"name", "last"}]}], with the last value as text; empty without
        metrics.
    """
    rows = logged_rows(folder / "metrics.jsonl", "step")
    panels = []
    for title, keys, from_zero in PANELS:
        series = {key: points for key in keys if (points := points_of(rows, key))}
        if series:
            panels.append(
                {
                    "title": title,
                    "svg": line_chart(title, list(series.values()), from_zero),
                    "keys": [{"name": key, "last": short(p[-1][1])} for key, p in series.items()],
                }
            )
    return panels


def points_of(rows: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """Return (step, value) for the rows in which the metric is present and finite."""
    return [
        (row["step"], float(row[key]))
        for row in rows
        if all(isinstance(v, int | float) and math.isfinite(v) for v in (row["step"], row.get(key)))
    ]

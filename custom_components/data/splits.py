"""Select the four splits of verified rollouts, and write their files.

One rank selects, from `Records` alone. Then all ranks read and write the texts chunk by chunk, and
the parts are joined.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from custom_components.config import UserError, option
from custom_components.data import curation
from custom_components.data.labels import difficulty_of
from custom_components.data.verified import Records, Selected, chunk_files, rows_at
from custom_components.io import atomic_path

MIDTRAIN, SFT, PROMPT = 1, 2, 4
SCHEMAS = {
    "midtrain": curation.MESSAGES_SCHEMA,
    "sft": curation.MESSAGES_SCHEMA,
    "pairs": curation.PAIRS_SCHEMA,
    "prompts": curation.PROMPTS_SCHEMA,
}
PAIRS_AT_ONCE = 2048


@dataclass
class SplitsConfig:
    """Configure the contents of the splits. An empty list of sources means all of them."""

    max_length: int | None = option(
        None, "longest response, tokens (characters if tokens are not counted)"
    )
    midtrain_sources: list[str] = option(list, "sources of the midtrain split")
    midtrain_per_problem: int = option(8, "most rollouts of one problem")
    sft_sources: list[str] = option(list, "sources of the sft split")
    sft_problems: int | None = option(None, "problems in the sft split; all by default")
    sft_per_problem: int = option(1, "rollouts of each problem, the shortest first")
    sft_unverified: bool = option(False, "whether to take finished rollouts whatever their verdict")
    sft_exclusive: bool = option(False, "whether to keep the sft problems out of midtrain")
    pairs_per_problem: int = option(4, "most preference pairs of one problem")
    max_pairs: int | None = option(None, "preference pairs in all; all by default")
    pairs_max_length_ratio: float = option(
        4.0, "most times the longer response may exceed the shorter"
    )
    pairs_max_pass_rate: float = option(1.0, "highest pass rate of a problem that gives pairs")
    pairs_difficulties: list[str] = option(
        list, "difficulties of problems that give pairs; all by default"
    )


@dataclass(frozen=True)
class Selection:
    """Hold what every rank needs to write its part of the splits.

    Attributes:
        roles: bits MIDTRAIN, SFT and PROMPT of each rollout, [rollouts] uint8.
        problem: number of each rollout's problem, [rollouts] int32.
        statistics: pass_rate, samples, mean_length, length_cv and length_range of each problem,
            [problems, 5] float64.
        pairs: rows of the chosen and the rejected response, [pairs, 2] int64, sorted by chosen row.
    """

    roles: np.ndarray
    problem: np.ndarray
    statistics: np.ndarray
    pairs: np.ndarray

    def save(self, folder: Path) -> None:
        """Write the selection as a folder, atomically."""
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            for name, array in vars(self).items():
                np.save(temporary / f"{name}.npy", array)

    @classmethod
    def open(cls, folder: Path) -> "Selection":
        """Open the folder that `save` wrote, memory-mapped."""
        names = ("roles", "problem", "statistics", "pairs")
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in names))


STATISTICS = ("pass_rate", "samples", "mean_length", "length_cv", "length_range")


def select(records: Records, kept: np.ndarray, splits: SplitsConfig, seed: int) -> Selection:
    """Choose the contents of the splits.

    Args:
        records: all verified rollouts.
        kept: whether each problem may be used at all, [problems] bool.
        splits: sizes and rules.
        seed: seed of the random choices.

    Raises:
        UserError: if a rule names an unknown source.
    """
    problems = np.flatnonzero(kept)
    source_of = records.codes["source"][records.first]

    def groups_from(names: list[str]) -> Selected:
        known = records.names["source"]
        if unknown := set(names) - set(known):
            raise UserError(
                f"splits: no rows of source {sorted(unknown)}; there are {sorted(known)}"
            )
        if not names:
            return Selected(records, problems)
        codes = [known.index(name) for name in names]
        return Selected(records, problems[np.isin(source_of[problems], codes)])

    sft = curation.select_sft(
        groups_from(splits.sft_sources),
        splits.sft_problems,
        splits.sft_per_problem,
        seed,
        curation.as_they_come if splits.sft_unverified else curation.distinct_correct,
    )
    midtrain = curation.select_midtrain(
        groups_from(splits.midtrain_sources),
        splits.midtrain_per_problem,
        set(sft) if splits.sft_exclusive else set(),
    )
    rates = records.pass_rates()
    fit = rates[problems] <= splits.pairs_max_pass_rate
    fit &= (0 < rates[problems]) & (rates[problems] < 1)  # some rollouts right, some wrong
    if splits.pairs_difficulties:
        fit &= np.array(
            [
                (records[p][0].difficulty or difficulty_of(rates[p])) in splits.pairs_difficulties
                for p in problems
            ],
            bool,
        )
    pairs = curation.select_pairs(
        Selected(records, problems[fit]),
        splits.pairs_per_problem,
        splits.pairs_max_length_ratio,
        seed,
        splits.max_pairs,
    )

    roles = np.zeros(len(records.problem), np.uint8)
    roles[[r.row for r in midtrain]] |= MIDTRAIN
    roles[[r.row for chosen in sft.values() for r in chosen]] |= SFT
    roles[records.first[problems]] |= PROMPT
    rows = np.array([(c.row, r.row) for c, r in pairs], np.int64).reshape(-1, 2)
    return Selection(
        roles, records.problem, statistics_of(records), rows[np.argsort(rows[:, 0], kind="stable")]
    )


def statistics_of(records: Records) -> np.ndarray:
    """Return the columns `STATISTICS`, [problems, 5] float64 (see `curation.length_statistics`)."""
    order = records.order
    starts = records.bounds[:-1]
    counts = np.diff(records.bounds)
    lengths = records.length[order].astype(np.float64)
    mean = np.add.reduceat(lengths, starts) / counts
    squares = np.add.reduceat((lengths - np.repeat(mean, counts)) ** 2, starts) / counts
    spread = np.maximum.reduceat(lengths, starts) - np.minimum.reduceat(lengths, starts)
    safe = np.where(mean > 0, mean, 1.0)
    return np.stack(
        [records.pass_rates(), counts, mean, np.sqrt(squares) / safe, spread / safe], axis=1
    )


def write_parts(
    verified: Path, folder: Path, selection: Selection, rank: int, ranks: int
) -> Iterator[str]:
    """Write this rank's parts of the splits to `folder`, and yield the name of each."""
    start = 0
    for number, file in enumerate(chunk_files(verified)):
        roles = np.asarray(selection.roles[start : start + pq.read_metadata(file).num_rows])
        if number % ranks == rank and roles.any():
            wanted = np.flatnonzero(roles)
            rows = pq.read_table(file).take(pa.array(wanted)).to_pylist()
            numbers = selection.problem[start + wanted]
            for name, bit, make in (
                ("midtrain", MIDTRAIN, messages_row),
                ("sft", SFT, messages_row),
                ("prompts", PROMPT, prompt_row),
            ):
                part = [
                    make(row, dict(zip(STATISTICS, selection.statistics[p].tolist(), strict=True)))
                    for row, role, p in zip(rows, roles[wanted], numbers, strict=True)
                    if role & bit
                ]
                if part:
                    yield write_part(folder, name, number, part)
        start += len(roles)
    for number, at in enumerate(range(0, len(selection.pairs), PAIRS_AT_ONCE)):
        if number % ranks == rank:
            pairs = np.asarray(selection.pairs[at : at + PAIRS_AT_ONCE])
            texts = dict(rows_at(verified, pairs.ravel()))
            rates = selection.statistics[selection.problem[pairs[:, 0]], 0]
            part = [
                pair_row(texts[chosen], texts[rejected], rate)
                for (chosen, rejected), rate in zip(pairs.tolist(), rates.tolist(), strict=True)
            ]
            yield write_part(folder, "pairs", number, part)


def write_part(folder: Path, name: str, number: int, rows: list[dict[str, Any]]) -> str:
    """Write one part of a split and return its name."""
    path = folder / name / f"{number:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMAS[name]), path, compression="zstd")
    return f"{name}/{path.name}"


def join_parts(folder: Path, name: str, path: Path) -> None:
    """Join a split's parts to one Parquet file, atomically."""
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, SCHEMAS[name], compression="zstd") as writer,
    ):
        parts = sorted((folder / name).glob("*.parquet"))
        for part in parts:
            writer.write_table(pq.read_table(part))
        if not parts:
            writer.write_table(SCHEMAS[name].empty_table())


def _labels(row: dict[str, Any], rate: float) -> dict[str, Any]:
    return {"difficulty": row["difficulty"] or difficulty_of(rate), "pass_rate": rate}


def messages_row(row: dict[str, Any], statistics: dict[str, float]) -> dict[str, Any]:
    """Return a verified row as a row of the midtrain or sft split."""
    kept = {k: row[k] for k in ("id", "source", "answer", "domain")}
    return kept | {"messages": curation.messages(row)} | _labels(row, statistics["pass_rate"])


def prompt_row(row: dict[str, Any], statistics: dict[str, float]) -> dict[str, Any]:
    """Return a problem's first verified row as a row of the prompts split."""
    kept = {k: row[k] for k in ("id", "source", "problem", "answer", "domain")}
    samples = {"samples": int(statistics["samples"])}
    return kept | statistics | samples | _labels(row, statistics["pass_rate"])


def pair_row(chosen: dict[str, Any], rejected: dict[str, Any], rate: float) -> dict[str, Any]:
    """Return two verified rows of one problem as a row of the pairs split."""
    return {
        "id": chosen["id"],
        "source": chosen["source"],
        "prompt": curation.messages(chosen)[:1],
        "chosen": chosen["response"],
        "rejected": rejected["response"],
        "rejected_finished": rejected["finish_reason"] == "stop",
    } | _labels(chosen, rate)


def removed_problems(
    verified: Path, records: Records, contaminated: np.ndarray, repeats: dict[int, int]
) -> Iterator[dict[str, Any]]:
    """Yield one row for each removed problem, with the reason.

    Args:
        verified: folder of verified chunks.
        records: all verified rollouts.
        contaminated: numbers of the problems that match an evaluation problem.
        repeats: {number of a problem: number of the one it nearly repeats}.
    """
    others = dict(
        rows_at(verified, (records.first[p] for p in repeats.values()), ["id", "problem"])
    )
    removed = {int(records.first[p]): p for p in [*contaminated.tolist(), *repeats]}
    columns = ["id", "source", "problem", "contaminated"]
    for row, values in rows_at(verified, removed, columns):
        match = values.pop("contaminated")
        if match:
            yield values | json.loads(match)
        else:
            other = others[int(records.first[repeats[removed[row]]])]
            yield values | {"reason": "near_duplicate", "of": other["id"], "text": other["problem"]}

"""Verify rollouts and turn them into the splits of the four training stages.

    tune run recipes/curate.py --config configs/tiny/curate.yaml

Every rollout is verified once (verified.parquet keeps all rows with their verdicts). Then
`midtrain` gets every correct one, `sft` a compact balanced subset, `pairs` correct x incorrect
of one problem, `prompts` the problems with their pass rates. What a split does not take, and
why, is counted in the manifest's yield table.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from custom_components.config import (
    Component,
    UserError,
    get_component,
    instantiate,
    option,
    recipe_main,
    required,
)
from custom_components.data import curation
from custom_components.data.curation import Record
from custom_components.data.rows import SCHEMA, Reject, read_rows
from custom_components.io import atomic_path, write_jsonl
from custom_components.training.run_folder import RunFolder
from custom_components.verifier import VerifierPool
from custom_components.verifier.options import VerifierConfig

VERIFIED_SCHEMA = SCHEMA
for _name, _type in (("prediction", pa.string()), ("verdict", pa.string()),
                     ("reason", pa.string()), ("repetitive", pa.bool_())):  # fmt: skip
    VERIFIED_SCHEMA = VERIFIED_SCHEMA.append(pa.field(_name, _type))


@dataclass
class SplitsConfig:
    """What goes into the splits. An empty list of sources means all of them."""

    midtrain_sources: list[str] = option(list, "sources of the midtrain split")
    midtrain_per_problem: int = option(8, "most rollouts of one problem")
    sft_sources: list[str] = option(list, "sources of the sft split")
    sft_problems: int | None = option(None, "problems in the sft split; all by default")
    sft_per_problem: int = option(1, "rollouts of each problem, the shortest first")
    sft_unverified: bool = option(False, "take finished rollouts whatever their verdict")
    sft_exclusive: bool = option(False, "keep the sft problems out of midtrain")
    pairs_per_problem: int = option(4, "most preference pairs of one problem")
    max_pairs: int | None = option(None, "preference pairs in all; all by default")
    pairs_max_length_ratio: float = option(4.0, "longer over shorter response, at most")


@dataclass
class CurateConfig:
    """Config of recipes/curate.py."""

    output_dir: str = required("run folder; splits go to <output_dir>/<split>.parquet")
    sources: list[Any] = required("list of functions of custom_components.data.rows")
    run_dir: str = option("runs", "folder of the chain, for interpolation")
    verifier: VerifierConfig = option(VerifierConfig, "the verifier's pool")
    splits: SplitsConfig = option(SplitsConfig, "what goes into the splits")
    max_reject_share: float = option(0.01, "stop when more rows than this cannot be used")
    seed: int = option(0, "seed of the selections")
    resume: str = option("auto", "auto: keep a complete run; never: start over")


@recipe_main(CurateConfig)
def main(cfg: Any) -> None:
    """Verify, label, select."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("curate is one process; raise verifier.workers instead of --nproc_per_node")
    run = RunFolder("curate", cfg, list(local_paths(cfg.sources)))
    if run.already_complete:
        return
    rejects: list[Reject] = []
    total = verify_rows(cfg, run.path / "verified.parquet", rejects)
    if rejects:
        write_jsonl(run.path / "rejects.jsonl", [vars(r) for r in rejects])
        print(f"{len(rejects)} of {total + len(rejects)} rows rejected; first: "
              f"{rejects[0].where}: {rejects[0].reason}")  # fmt: skip
    if len(rejects) > cfg.max_reject_share * (total + len(rejects)):
        raise UserError(
            f"{len(rejects)} of {total + len(rejects)} rows cannot be used (see "
            f"{run.path / 'rejects.jsonl'}); mend the data or raise max_reject_share"
        )
    counts = {"rejected": len(rejects), **write_splits(cfg, run)}
    run.finish([run.path / f"{name}.parquet" for name in (
        "verified", "midtrain", "sft", "pairs", "prompts")], counts)  # fmt: skip
    for name, value in counts.items():
        print(f"{name:>24}  {value}", flush=True)


def local_paths(sources: list[Component]) -> Iterator[str]:
    """Local files and folders named by the sources' `path`."""
    for source in sources:
        if os.path.exists(str(source.get("path", ""))):
            yield source["path"]


def source_rows(sources: list[Component]) -> Iterator[dict[str, Any] | Reject]:
    """Rows of all sources, one after the other."""
    for i, source in enumerate(sources):
        if not isinstance(source, dict):
            raise UserError(f"sources.{i}: must be a node with _component_")
        get_component(source.get("_component_"), f"sources.{i}")
        yield from instantiate(source, f"sources.{i}")


def verify_rows(cfg: Any, path: Any, rejects: list[Reject]) -> int:
    """Write every row with its verdict to `path`, streaming. Returns the number of rows."""
    pending: list[dict[str, Any]] = []

    def items() -> Iterator[dict[str, Any]]:
        for row in source_rows(cfg.sources):
            if isinstance(row, Reject):
                rejects.append(row)
                continue
            pending.append(row)
            yield {
                "gold": row["answer"],
                "response": row["response"],
                "truncated": row["finish_reason"] == "length",
            }

    def verified() -> Iterator[dict[str, Any]]:
        with VerifierPool(cfg.verifier.workers, cfg.verifier.time_limit) as pool:
            for i, verdict in enumerate(tqdm(pool.imap(items()), desc="verify", unit="row")):
                row, pending[i] = pending[i], None  # the verdicts come in the items' order
                yield row | {
                    "prediction": verdict.prediction,
                    "verdict": verdict.verdict,
                    "reason": verdict.reason,
                    "repetitive": curation.is_repetitive(row["response"]),
                }

    total = write_stream(path, verified(), VERIFIED_SCHEMA)
    if total == 0:
        raise UserError(f"sources: no usable row ({len(rejects)} rejected)")
    return total


def write_stream(path: Any, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> int:
    """Write rows as Parquet, a few thousand at a time. Returns their number."""
    total = 0
    with atomic_path(path) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            buffer: list[dict[str, Any]] = []
            for row in rows:
                buffer.append(row)
                total += 1
                if len(buffer) == 4096:
                    writer.write_table(pa.Table.from_pylist(buffer, schema))
                    buffer.clear()
            writer.write_table(pa.Table.from_pylist(buffer, schema))
    return total


def records_of(path: Any) -> Iterator[Record]:
    """The light records of all verified rows."""
    for i, row in enumerate(read_rows(path)):
        yield Record(
            row=i,
            problem=curation.problem_key(row["problem"]),
            source=row["source"],
            difficulty=row["difficulty"] or "unknown",
            domain=row["domain"] or "unknown",
            length=row["num_tokens"] or len(row["response"]),
            verdict=row["verdict"],
            finished=row["finish_reason"] == "stop",
            repetitive=row["repetitive"],
            response_key=hash(row["response"]),
        )


def write_splits(cfg: Any, run: RunFolder) -> dict[str, Any]:
    """Select and write the four splits. Returns the yield table."""
    verified, splits = run.path / "verified.parquet", cfg.splits
    records = list(records_of(verified))
    groups = curation.by_problem(records)

    def groups_from(names: list[str]) -> dict[str, list[Record]]:
        known = {r.source for r in records}
        if unknown := set(names) - known:
            raise UserError(
                f"splits: no rows of source {sorted(unknown)}; there are {sorted(known)}"
            )
        return {p: g for p, g in groups.items() if not names or g[0].source in names}

    sft = curation.select_sft(
        groups_from(splits.sft_sources),
        splits.sft_problems,
        splits.sft_per_problem,
        cfg.seed,
        curation.as_they_come if splits.sft_unverified else curation.distinct_correct,
    )
    withheld = set(sft) if splits.sft_exclusive else set()
    midtrain = curation.select_midtrain(
        groups_from(splits.midtrain_sources), splits.midtrain_per_problem, withheld
    )
    pairs = curation.select_pairs(
        groups,
        splits.pairs_per_problem,
        splits.pairs_max_length_ratio,
        cfg.seed,
        splits.max_pairs,
    )
    in_midtrain = {r.row for r in midtrain}
    in_sft = {r.row for chosen in sft.values() for r in chosen}
    texts = rows_at(verified, {r.row for pair in pairs for r in pair})
    first_rows = {group[0].row: group for group in groups.values()}

    def with_rate(row: dict[str, Any]) -> dict[str, Any]:
        rate = curation.pass_rate(groups[curation.problem_key(row["problem"])])
        return {k: row.get(k) for k in curation.MESSAGES_SCHEMA.names} | {
            "messages": curation.messages(row), "pass_rate": rate,
        }  # fmt: skip

    def pair_rows() -> Iterator[dict[str, Any]]:
        for chosen, rejected in pairs:
            good, bad = texts[chosen.row], texts[rejected.row]
            yield {
                "id": good["id"], "source": good["source"],
                "prompt": curation.messages(good)[:1], "chosen": good["response"],
                "rejected": bad["response"], "rejected_finished": rejected.finished,
                "difficulty": good["difficulty"],
                "pass_rate": curation.pass_rate(groups[chosen.problem]),
            }  # fmt: skip

    def prompt_rows() -> Iterator[dict[str, Any]]:
        for i, row in enumerate(read_rows(verified)):
            if i in first_rows:
                yield {k: row.get(k) for k in curation.PROMPTS_SCHEMA.names} | (
                    curation.prompt_statistics(first_rows[i])
                )

    for name, keep in (("midtrain", in_midtrain), ("sft", in_sft)):
        rows = (with_rate(row) for i, row in enumerate(read_rows(verified)) if i in keep)
        write_stream(run.path / f"{name}.parquet", rows, curation.MESSAGES_SCHEMA)
    write_stream(run.path / "pairs.parquet", pair_rows(), curation.PAIRS_SCHEMA)
    write_stream(run.path / "prompts.parquet", prompt_rows(), curation.PROMPTS_SCHEMA)

    verdicts = Counter(r.verdict for r in records)
    correct = [r for r in records if r.verdict == "correct"]
    return {
        "rollouts": len(records),
        "problems": len(groups),
        **{name: verdicts[name] for name in ("correct", "incorrect", "undecided")},
        "truncated": sum(not r.finished for r in records),
        "repetitive_correct": sum(r.repetitive for r in correct),
        "repeated_correct": len([r for r in correct if r.usable])
        - sum(len(curation.distinct_correct(g)) for g in groups.values()),
        "midtrain": len(in_midtrain),
        "sft": len(in_sft),
        "pairs": len(pairs),
        "prompts": len(groups),
    }


def rows_at(path: Any, wanted: set[int]) -> dict[int, dict[str, Any]]:
    """The verified rows with these indices."""
    return {i: row for i, row in enumerate(read_rows(path)) if i in wanted}


if __name__ == "__main__":
    main()

"""Verify rollouts and turn them into the splits of the four training stages.

    tune run recipes/curate.py --config configs/tiny/curate.yaml
    tune run --nproc_per_node 2 recipes/curate.py --config configs/tiny/curate.yaml

Every rollout is verified once: `verified/` keeps all rows with their verdicts, in chunks that are
written as a whole; rank r makes the chunks r, r + ranks, ... A killed run resumes with the missing
chunks. Then rank 0 removes near-duplicates and problems that are in an evaluation set, and selects:
`midtrain` gets every correct rollout, `sft` a compact balanced subset, `pairs` correct x incorrect
rollouts of one problem, `prompts` the problems with their pass rates. removed.jsonl lists what was
removed, rejects.jsonl what could not be read; the yield table (manifest, card) counts the rest.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from custom_components.cards import data_card
from custom_components.config import Component, UserError, get_component, instantiate, recipe_main
from custom_components.data.curation import is_repetitive
from custom_components.data.data_config import CurateConfig
from custom_components.data.decontamination import Decontaminator
from custom_components.data.deduplication import near_duplicates
from custom_components.data.labeller import Labeller
from custom_components.data.labels import guess_domain
from custom_components.data.rows import Reject, write_rows
from custom_components.data.second_opinion import SecondOpinion
from custom_components.data.splits import (
    SCHEMAS,
    Selection,
    join_parts,
    removed_problems,
    select,
    write_parts,
)
from custom_components.data.verified import VERIFIED_SCHEMA, Records, problem_key, rows_at, text_key
from custom_components.data.yields import print_yields, yield_table
from custom_components.io import write_jsonl, write_text
from custom_components.runs.run_folder import RunFolder
from custom_components.runs.stopwatch import Stopwatch
from custom_components.training.distributed import World, setup_world
from custom_components.verifier import Item, Verdict, VerifierPool
from eval.sets import evaluation_problems


@recipe_main
def main(cfg: CurateConfig) -> None:
    """Verify and label the rollouts, and select the splits."""
    with setup_world("cpu", uneven=True) as world:
        run = RunFolder("curate", cfg, world)
        if run.already_complete:
            return
        verified, parts = run.path / "verified", run.path / ".parts"
        clock = Stopwatch()
        rejected: dict[str, int] = {}
        table: list[dict[str, Any]] = []
        totals: dict[str, Any] = {}  # rank 0 fills in the three
        with clock("verify"):
            verify_all(cfg, run.path, world)
            world.barrier()
        with clock("select"):
            if world.rank == 0:
                shutil.rmtree(parts, ignore_errors=True)
                rejected = collect_rejects(cfg, run.path)
                table, totals = select_rows(cfg, run.path)
            world.barrier()
        with clock("write"):
            selection = Selection.open(run.path / "selection")
            written = write_parts(verified, parts, selection, world.rank, world.size)
            for _ in tqdm(written, desc="write", unit="part", disable=world.rank != 0):
                pass
            world.barrier()
            for name in list(SCHEMAS)[world.rank :: world.size]:
                join_parts(parts, name, run.path / f"{name}.parquet")
            world.barrier()
        if world.rank == 0:
            shutil.rmtree(parts, ignore_errors=True)
            shutil.rmtree(run.path / "selection")
            totals = {**rejected, **totals}
            counts = {row["name"]: row["rollouts"] for row in table} | totals
            sources = sorted({source["_component_"].rpartition(".")[2] for source in cfg.sources})
            card = data_card(sources, run.config, table, totals["length_unit"])
            write_text(run.path / "README.md", card)
            outputs = [verified, *(run.path / f"{name}.parquet" for name in SCHEMAS)]
            seconds = {name: round(spent, 2) for name, spent in clock.seconds.items()}
            run.finish(outputs, counts | {"yields": table, "seconds": seconds})
            print_yields(table, totals["length_unit"])
            for name, value in totals.items():
                print(f"{name:>24}  {value}", flush=True)


def source_rows(sources: list[Component]) -> Iterator[dict[str, Any] | Reject]:
    """Yield the rows of all sources, one source after the other."""
    for i, source in enumerate(sources):
        if not isinstance(source, dict):
            raise UserError(f"sources.{i}: must be a node with _component_")
        get_component(source.get("_component_"), f"sources.{i}")
        yield from instantiate(source, f"sources.{i}")


def verify_all(cfg: CurateConfig, folder: Path, world: World) -> None:
    """Write this rank's missing chunks of verified rows."""
    done = {int(f.stem) for f in (folder / "verified").glob("*.parquet")}
    decontaminator = None
    if cfg.decontamination.sets:
        decontaminator = Decontaminator(
            evaluation_problems(cfg.decontamination.sets),
            cfg.decontamination.ngram,
            cfg.decontamination.similarity,
        )
    second_opinion = instantiate(cfg.judge, "judge") if cfg.judge else None
    labeller = instantiate(cfg.labeller, "labeller") if cfg.labeller else None
    with (
        cfg.verifier.open() as pool,
        tqdm(desc="verify", unit="row", disable=world.rank != 0) as bar,
    ):
        for number, items in enumerate(in_chunks(source_rows(cfg.sources), cfg.chunk_rows)):
            if number % world.size != world.rank:
                continue
            if number not in done:
                rejects = [vars(item) for item in items if isinstance(item, Reject)]
                rows = [item for item in items if not isinstance(item, Reject)]
                write_jsonl(folder / "rejects" / f"{number:05d}.jsonl", rejects)
                verify_chunk(rows, cfg.given_verdicts == "trust", pool)
                mark_contaminated(rows, decontaminator)
                add_labels(rows, labeller)
                add_opinions(rows, second_opinion)
                chunk = folder / "verified" / f"{number:05d}.parquet"
                write_rows(chunk, rows, VERIFIED_SCHEMA)
            bar.update(len(items) * world.size)


def in_chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yield the items in lists of `size`; the last list may be shorter."""
    while chunk := list(islice(items, size)):
        yield chunk


def verify_chunk(rows: list[dict[str, Any]], trust: bool, pool: VerifierPool) -> None:
    """Add verdict, prediction, reason, length, keys and repetition to the rows.

    Args:
        rows: rollout rows, to which the columns are added.
        trust: whether a verdict that a source gives counts without verification.
        pool: verifier.
    """
    items = (
        Item(
            row["answer"],
            row["response"],
            truncated=row["finish_reason"] == "length",
            problem=row["problem"],
        )
        for row in rows
        if not (trust and row["given_verdict"])
    )
    verdicts = pool.imap(items)
    for row in rows:
        if trust and row["given_verdict"]:
            verdict = Verdict(row["given_verdict"], "given", None)
        else:
            verdict = next(verdicts)
        row |= {
            "prediction": verdict.prediction,
            "verdict": verdict.verdict,
            "reason": verdict.reason,
            "length": row["num_tokens"] or len(row["response"]),
            "repetitive": is_repetitive(row["response"]),
            "problem_key": problem_key(row["problem"]),
            "response_key": text_key(row["response"]),
        }


def mark_contaminated(rows: list[dict[str, Any]], decontaminator: Decontaminator | None) -> None:
    """Add the column `contaminated`: the evaluation problem that matches, as JSON."""
    if decontaminator is None:
        return
    texts = list({row["problem_key"]: row["problem"] for row in rows}.values())
    matches = {
        problem_key(text): json.dumps(asdict(match))
        for text, match in zip(texts, decontaminator.check(texts), strict=True)
        if match
    }
    for row in rows:
        row["contaminated"] = matches.get(row["problem_key"])


def add_labels(rows: list[dict[str, Any]], labeller: Labeller | None) -> None:
    """Fill in domain and difficulty by the labeller, and a missing domain by a heuristic."""
    if labeller is not None:
        unlabelled = {r["problem"] for r in rows if not (r["domain"] and r["difficulty"])}
        labels = labeller.labels(sorted(unlabelled))
        for row in rows:
            for column, value in labels.get(row["problem"], {}).items():
                row[column] = row[column] or value
    guesses: dict[str, str] = {}
    for row in rows:
        if not row["domain"]:
            text = row["problem"]
            row["domain"] = guesses.get(text) or guesses.setdefault(text, guess_domain(text))


def add_opinions(rows: list[dict[str, Any]], second_opinion: SecondOpinion | None) -> None:
    """Add a second opinion on the answers that are not correct. The verdict does not change."""
    if second_opinion is None:
        return
    doubtful = [row for row in rows if row["verdict"] != "correct"]
    questions = [
        (r["problem"], r["answer"], Verdict(r["verdict"], r["reason"], r["prediction"]))
        for r in doubtful
    ]
    for row, opinion in zip(doubtful, second_opinion.opinions(questions), strict=True):
        row["judge"] = opinion.opinion


def collect_rejects(cfg: CurateConfig, folder: Path) -> dict[str, int]:
    """Join the rejects of all chunks and return their count.

    Raises:
        UserError: if there are too many of them, or no row is usable.
    """
    files = sorted((folder / "rejects").glob("*.jsonl"))
    rejects = [json.loads(line) for f in files for line in f.read_text().splitlines()]
    if rejects:
        write_jsonl(folder / "rejects.jsonl", rejects)
    good = sum(pq.read_metadata(f).num_rows for f in (folder / "verified").glob("*.parquet"))
    lost = [r for r in rejects if r["whole_file"]]
    first = f"; first: {rejects[0]['where']}: {rejects[0]['reason']}" if rejects else ""
    if good == 0:
        raise UserError(f"sources: no usable row ({len(rejects)} rejected{first})")
    if rejects:
        print(f"{len(rejects)} of {good + len(rejects)} rows rejected{first}", flush=True)
    if len(lost) > cfg.max_lost_files:
        raise UserError(
            f"{len(lost)} files cannot be read (first: {lost[0]['where']}: {lost[0]['reason']}); "
            "fix them and set resume=never, or allow max_lost_files and run again"
        )
    if len(rejects) > cfg.max_reject_share * (good + len(rejects)):
        raise UserError(
            f"{len(rejects)} of {good + len(rejects)} rows cannot be used (see "
            f"{folder / 'rejects.jsonl'}{first}); fix the data and set resume=never, or raise "
            "max_reject_share and run again"
        )
    return {"rejected": len(rejects)}


def select_rows(cfg: CurateConfig, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Remove problems, select the splits, and save the selection.

    Returns:
        (yield table, further counts).
    """
    verified = folder / "verified"
    records = Records(verified, cfg.splits.max_length)
    contaminated = np.unique(records.problem[records.contaminated])
    kept = np.ones(len(records), bool)
    kept[contaminated] = False
    repeats: dict[int, int] = {}
    if cfg.near_duplicates is not None:
        firsts = rows_at(verified, records.first[kept], ["problem"])
        texts = zip(
            np.flatnonzero(kept).tolist(), (row["problem"] for _, row in firsts), strict=True
        )
        bar = tqdm(texts, desc="near-duplicates", unit="problem", total=int(kept.sum()))
        repeats = dict(near_duplicates(bar, cfg.near_duplicates))
        kept[list(repeats)] = False
    removed = removed_problems(verified, records, contaminated, repeats)
    removed_count = write_jsonl(folder / "removed.jsonl", removed)
    selection = select(records, kept, cfg.splits, cfg.seed)
    selection.save(folder / "selection")
    sides = records.length[selection.pairs].astype(float)
    ratios = sides[:, 0] / sides[:, 1].clip(1)
    length_ratio = round(float(ratios.mean()), 3) if len(ratios) else None
    given = records.given >= 0
    return yield_table(records, kept, contaminated, selection), {
        "problems": len(records),
        "removed_problems": removed_count,
        "length_unit": "tokens" if records.in_tokens else "characters",
        "pairs_length_ratio": length_ratio,
        "given_verdicts": int(given.sum()),
        "given_verdicts_agreeing": int((records.given == records.verdict)[given].sum()),
        "judge_says_same": int(records.opinion_same.sum()),
        **{f"bytes_per_{k}": round(v, 1) for k, v in records.bytes_held().items()},
    }


if __name__ == "__main__":
    main()

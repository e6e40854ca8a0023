"""Check the rows that a stage reads: files, columns, answers, lengths, contamination."""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from custom_components.config import UserError, instantiate
from custom_components.data.data_config import CurateConfig, RolloutConfig
from custom_components.data.decontamination import Decontaminator
from custom_components.data.packing import IGNORE, encode_messages, encode_pair
from custom_components.data.rows import Reject, read_rows
from custom_components.data.verified import problem_key
from custom_components.doctor.findings import Finding
from custom_components.doctor.stage import Stage, files_of
from custom_components.doctor.template import MOST, check_reasoning, open_tokenizer
from custom_components.rl.rl_config import RLConfig
from custom_components.runs.run_config import RunConfig
from custom_components.tokenizer.chat import ChatTokenizer
from custom_components.tokenizer.thought import OPEN
from custom_components.training.training_config import MidtrainConfig, TrainingConfig
from custom_components.verifier import Item
from custom_components.verifier.pool.options import VerifierConfig
from eval.evaluate_config import EvaluateConfig
from eval.evaluation_tasks import EvaluationProblem

SOME_TOO_LONG = 0.01
UNREADABLE_GOLDS = 0.2
CONTAMINATED = 0.01
WORDS_OF_A_SOLUTION = 12
"""An answer with more words is taken for a solution."""
DATA = ("data", "problems.", "sources.")
"""Beginnings of the input keys that name data."""


def check_inputs(stage: Stage) -> Iterator[Finding]:
    """Check that what the stage reads exists, or that an earlier stage has yet to make it."""
    keys: dict[str, list[str]] = {}
    for key, path in stage.cfg.inputs().items():
        gone = stage.missing(path) or (key == "data" and not Path(path).exists())
        if gone and not stage.pending(path):
            keys.setdefault(path, []).append(key)
    for path, named in keys.items():
        # when a stage is examined on its own, the stages that make its inputs may not have run yet
        level = "warning" if stage.alone and stage.missing(path) else "error"
        yield Finding(
            "data_unreadable",
            level,
            f"{', '.join(named)}: {path} does not exist (has the stage that makes it finished?)",
            "the stage cannot start without it, and it could not be checked",
            "run that stage first, or correct the path",
        )


def check_files(stage: Stage) -> Iterator[Finding]:
    """Check that every Parquet file that the stage reads has an intact footer."""
    for path in [path for key, path in stage.cfg.inputs().items() if key.startswith(DATA)]:
        for file in files_of(path):
            if file.suffix != ".parquet":
                continue
            try:
                pq.read_metadata(file)
            except Exception as e:  # pyarrow has no common error for a file that is not Parquet
                yield unreadable(f"{file} cannot be read as Parquet ({str(e).splitlines()[0]})")


def unreadable(what: str) -> Finding:
    """Return the finding on data that cannot be read."""
    return Finding(
        "data_unreadable",
        "error",
        what,
        "the stage would stop there, or train without it",
        "copy the file again, or make it again, or take it out of the folder",
    )


def check_problems(stage: Stage, rows: int) -> Iterator[Finding]:
    """Check rows, answers and golds that a rollout, curate or RL stage reads."""
    cfg = stage.cfg
    nodes: list[tuple[str, Any]] = []
    if isinstance(cfg, RolloutConfig | RLConfig | EvaluateConfig) and cfg.problems:
        nodes.append(("problems", cfg.problems))
    if isinstance(cfg, CurateConfig):
        nodes += [(f"sources.{i}", source) for i, source in enumerate(cfg.sources)]
    for key, node in nodes:
        if not isinstance(node, dict) or stage.missing(str(node.get("path", ""))):
            continue
        try:
            items = list(islice(instantiate(node, key), rows))
        except UserError as e:
            yield unreadable(f"{key}: {e}")
            continue
        good = [item for item in items if not isinstance(item, Reject)]
        rejects = [item for item in items if isinstance(item, Reject)]
        lost = [r for r in rejects if r.whole_file]
        if lost:
            yield unreadable(f"{key}: {lost[0].where}: {lost[0].reason}")
        elif rejects:
            yield from rejected(cfg, key, len(items), rejects)
        yield from check_answers(key, good)
        if isinstance(cfg, CurateConfig):
            yield from check_cut_off(key, good)
        yield from check_golds(stage, key, [row["answer"] for row in good])


def rejected(cfg: RunConfig, key: str, rows: int, rejects: list[Reject]) -> Iterator[Finding]:
    """Yield the finding on rows that cannot be used.

    It is an error if the stage would stop because of them, or if most rows cannot be used.
    """
    share = len(rejects) / rows
    limited = isinstance(cfg, RolloutConfig | CurateConfig)
    error = share > (cfg.max_reject_share if limited else MOST)
    yield Finding(
        "data_columns",
        "error" if error else "warning",
        f"{key}: {len(rejects)} of the first {rows} rows cannot be used; the first is "
        f"{rejects[0].where}: {rejects[0].reason}",
        "they are left out and counted; above max_reject_share they stop rollout and curate",
        f"name the right columns in {key}, or fix the rows",
    )


def check_answers(key: str, rows: list[dict[str, Any]]) -> Iterator[Finding]:
    """Check that the answers look like answers."""
    wordy = [row for row in rows if len(row["answer"].split()) > WORDS_OF_A_SOLUTION]
    same = [row for row in rows if row["answer"] == row["problem"]]
    if rows and 2 * max(len(wordy), len(same)) > len(rows):
        example = (same or wordy)[0]["answer"][:80]
        yield Finding(
            "answer_column",
            "error",
            f"{key}: {len(same)} of {len(rows)} answers are the problem itself, {len(wordy)} have "
            f"more than {WORDS_OF_A_SOLUTION} words, e.g. {example!r}",
            "no response can equal them, so everything would count as wrong",
            f"name the column of the final answer: {key}.answer=...",
        )


def check_cut_off(key: str, rows: list[dict[str, Any]]) -> Iterator[Finding]:
    """Check that a source's cut-off responses show their reasoning as the others do."""
    reasoned = sum(OPEN in row["response"] for row in rows)
    cut = [row for row in rows if row["finish_reason"] == "length"]
    unopened = sum(OPEN not in row["response"] for row in cut)
    if unopened and reasoned > MOST * len(rows):
        yield Finding(
            "reasoning",
            "warning",
            f"{key}: {unopened} of {len(cut)} cut-off responses have no <think>, and most of the "
            "others have one",
            "if their prompt opened it, a box in their unfinished reasoning counts as an answer",
            f"{key}.reasoning_open=true if the prompts end in <think>",
        )


def check_golds(stage: Stage, key: str, golds: list[str]) -> Iterator[Finding]:
    """Check that the verifier reads each gold: it equals itself, and differs from another answer."""
    golds = list(dict.fromkeys(golds))
    cfg = stage.cfg
    verifies = isinstance(cfg, CurateConfig | RLConfig)
    options = cfg.verifier if verifies else VerifierConfig(workers=1)
    if not golds:
        return
    with options.open() as pool:
        itself = pool.imap(
            Item(g, g if "\\boxed" in g or "####" in g else f"\\boxed{{{g}}}", allow_fallback=True)
            for g in golds
        )
        bad = {g: v.reason for g, v in zip(golds, itself, strict=True) if v.verdict != "correct"}
        other = pool.imap(Item(g, "\\boxed{271828}") for g in golds)
        bad |= {g: v.reason for g, v in zip(golds, other, strict=True) if v.verdict == "undecided"}
    if bad:
        gold, reason = next(iter(bad.items()))
        yield Finding(
            "gold_unreadable",
            "error" if len(bad) > UNREADABLE_GOLDS * len(golds) else "warning",
            f"{key}: the verifier cannot read {len(bad)} of {len(golds)} answers, e.g. "
            f"{gold[:80]!r} ({reason})",
            "responses to these problems stay undecided: they are sampled, paid for and left out",
            "fix these answers, or leave the problems out",
        )


def documents_of(
    stage: Stage, tokenizer: ChatTokenizer, path: str, rows: int
) -> Iterator[tuple[dict[str, Any], list]]:
    """Yield rows of a split with their documents, as the stage would encode them.

    A row that cannot be encoded has no documents.

    Raises:
        UserError: When the file cannot be read.
    """
    scores_prompt = isinstance(stage.cfg, MidtrainConfig) and stage.cfg.train_on_prompt
    for row in islice(read_rows(path), rows):
        encode = (
            encode_pair
            if "chosen" in row
            else partial(encode_messages, train_on_prompt=scores_prompt)
        )
        try:
            yield row, encode(row, tokenizer=tokenizer)
        except (KeyError, TypeError, ValueError):
            yield row, []


def check_training_rows(stage: Stage, rows: int) -> Iterator[Finding]:
    """Check the rows of a split: columns, lengths, and that the end of the turn is trained."""
    cfg, path = stage.cfg, stage.data
    if not isinstance(cfg, TrainingConfig) or path is None or not Path(path).exists():
        return
    try:
        tokenizer = open_tokenizer(stage)
    except UserError:  # check_template reports it
        tokenizer = None
    try:
        if tokenizer is None:  # made or downloaded later, while the file exists now
            next(iter(read_rows(path)), None)
            return
        encoded = list(documents_of(stage, tokenizer, path, rows))
    except UserError as e:
        yield unreadable(str(e))
        return
    responses = [text for row, _ in encoded for text in answer_of(row)]
    reasoning = list(check_reasoning(tokenizer, path, responses))
    yield from reasoning
    usable = [(row, documents) for row, documents in encoded if documents]
    if not usable and any(finding.level == "error" for finding in reasoning):
        return
    if not usable:
        yield Finding(
            "data_columns",
            "error",
            f"{path}: none of {len(encoded)} rows has usable messages",
            "there is nothing to train on",
            "give a split that recipes/curate.py wrote",
        )
        return
    longest = [max(len(ids) for ids, _ in documents) for _, documents in usable]
    over = sum(length > cfg.max_seq_len for length in longest) / len(longest)
    if over > SOME_TOO_LONG:
        enough = sorted(longest)[int(0.99 * (len(longest) - 1))]
        yield Finding(
            "too_long",
            "error" if over > MOST else "warning",
            f"{over:.0%} of {len(longest)} rows of {path} are longer than max_seq_len={cfg.max_seq_len}",
            "they are left out, and they are the hard problems' long solutions",
            f"max_seq_len={enough} would take 99 % of them",
        )
    # only the first document of a pair: its rejected response may have been cut off, without an end
    ends = [documents[0] for _, documents in usable]
    end = tokenizer.end_of_turn_id
    untrained = sum(ids[-1] != end or labels[-1] == IGNORE for ids, labels in ends)
    if untrained:
        what = f"the end of the turn is not scored in {untrained} of {len(ends)} rows of {path}"
        is_padding = tokenizer.pad_id == end
        yield Finding(
            "pad_is_end_of_turn" if is_padding else "end_of_turn",
            "error",
            f"{what}, and it is the pad token" if is_padding else what,
            "the model does not learn to stop: every response runs into the length limit",
            "mask padding by position, not by id, and let encode_example append the end of the turn",
        )


def answer_of(row: dict[str, Any]) -> list[str]:
    """Return the response that a row of a split trains towards, in a list; empty if it has none."""
    turns = row.get("messages") or [{"content": row.get("chosen")}]
    last = turns[-1] if isinstance(turns, list) else None
    text = last.get("content") if isinstance(last, dict) else None
    return [text] if isinstance(text, str) else []


def question(turns: Any) -> list[str]:
    """Return the text of the last user turn, in a list; an empty list if there is none.

    `check_training_rows` reports values that are not turns.
    """
    turns = [t for t in turns if isinstance(t, dict)] if isinstance(turns, list) else []
    questions = [turn.get("content") for turn in turns if turn.get("role") == "user"]
    return [text for text in questions[-1:] if isinstance(text, str)]


def problem_texts(stage: Stage, rows: int) -> Iterable[str]:
    """Yield the problems that the stage trains on: all of a split's, or the first `rows` of RL's."""
    cfg, path = stage.cfg, stage.data
    if path is not None:
        for row in read_rows(path):
            yield from question(row.get("messages") or row.get("prompt"))
    elif isinstance(cfg, RLConfig):
        for item in islice(instantiate(cfg.problems, "problems"), rows):
            if not isinstance(item, Reject):
                yield item["problem"]


def check_contamination(
    stage: Stage, known: list[EvaluationProblem], rows: int
) -> Iterator[Finding]:
    """Check that no evaluation problem is trained on.

    Args:
        stage: Stage that trains.
        known: Problems of the evaluation. Copies of all of them count, and altered copies of those
            of a benchmark.
        rows: Number of problems to search for altered copies.
    """
    try:
        texts = list(dict.fromkeys(problem_texts(stage, rows)))
    except UserError:  # check_training_rows or check_problems reports it
        return
    if not texts or not known:
        return
    keys = {problem_key(problem.text): problem.task for problem in known}
    copies = {t: keys[k] for t in texts if (k := problem_key(t)) in keys}
    share = len(copies) / len(texts)
    benchmarks = [(problem.task, problem.text) for problem in known if problem.is_benchmark]
    if benchmarks:
        step = max(1, len(texts) // rows)
        sample = [t for t in texts[::step] if t not in copies]
        matches = zip(sample, Decontaminator(benchmarks).check(sample), strict=True)
        altered = {t: match.evaluation_set for t, match in matches if match}
        # exact copies are counted among all problems, altered ones among the sample
        share = max(share, len(altered) / max(1, len(sample)))
        copies |= altered
    if copies:
        text, name = next(iter(copies.items()))
        yield Finding(
            "contaminated",
            "error" if share > CONTAMINATED else "warning",
            f"{len(copies)} of {len(texts)} problems are evaluation problems or altered copies, "
            f"e.g. {text[:80]!r} of {name}",
            "accuracy on them says nothing about the model",
            "name the sets in decontamination.sets of the curate stage, or take the problems out",
        )

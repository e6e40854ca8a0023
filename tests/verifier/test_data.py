"""Verify real rows: every gold equals itself, and real rollouts get another project's labels.

The data is looked for beside the repository (`../shared/data`) or at REASONTUNE_DATA.
"""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path

import pytest

from custom_components.verifier import VerifierPool

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("REASONTUNE_DATA", ROOT.parent / "shared" / "data"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data at {DATA}")

# NeMo-Skills labels these rollouts wrong, and we call them correct. Each was read: the labels are
# wrong. The first two box a right answer with its unit or its name; the third uses \fbox.
MISLABELLED = {
    ("train/prealgebra/737.json", 0): "1320 km for 1320",
    ("train/algebra/2027.json", 0): "(x+y)^2 = 81 for 81",
    ("train/number_theory/7086.json", 1): r"\fbox{958} for 958",
}


def rows(name: str) -> list[dict]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {path}")
    return [json.loads(line) for line in path.open(encoding="utf-8")]


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(workers=2, time_limit=10.0) as pool:
        yield pool


@pytest.mark.parametrize(
    "name, key",
    [
        ("gsm8k/train.jsonl", "answer"),
        ("gsm8k/test.jsonl", "answer"),
        ("math/train7500_answers.jsonl", "answer"),
        ("eval/math500.jsonl", "answer"),
        ("eval/aime24.jsonl", "expected_answer"),
        ("eval/aime25.jsonl", "expected_answer"),
    ],
)
def test_every_gold_equals_itself(pool, name, key):
    golds = dict.fromkeys(row[key].rpartition("####")[2].strip() for row in rows(name))
    items = [{"gold": g, "response": rf"<think>a</think> So $\boxed{{{g}}}$."} for g in golds]
    verdicts = dict(zip(golds, pool.imap(items), strict=True))
    # One row of MATH has no answer, so it cannot be decided.
    assert {g: v for g, v in verdicts.items() if not v and g} == {}
    assert all(v.verdict == "undecided" for g, v in verdicts.items() if not g)


def test_whole_gsm8k_solutions_as_golds(pool):
    items = [
        {"gold": row["answer"], "response": rf"\boxed{{{row['answer'].split('#### ')[1]}}}"}
        for row in rows("gsm8k/test.jsonl")
    ]
    assert all(pool.verify_all(items))


def test_math500_golds_in_their_solutions(pool):
    items = [
        {"gold": row["answer"], "response": row["solution"]} for row in rows("eval/math500.jsonl")
    ]
    wrong = [
        (item["gold"], verdict)
        for item, verdict in zip(items, pool.imap(items), strict=True)
        if not verdict
    ]
    assert wrong == []


def test_labelled_rollouts(pool):
    labelled = rows("rollouts/math_train_nemo_3x50.jsonl")
    verdicts = pool.verify_all(
        {"gold": row["gold"], "response": row["response"]} for row in labelled
    )
    differing = {
        (row["problem_id"], row["rollout"])
        for row, verdict in zip(labelled, verdicts, strict=True)
        if (verdict.verdict == "correct") != row["is_correct"]
    }
    assert differing == set(MISLABELLED)


def test_short_traces_with_answer_tags(pool):
    """Check that rollouts without boxes, whose prompt opens the reasoning, are all decided."""
    traces = rows("traces/cs336_math_short_cot_1767.jsonl")
    verdicts = pool.verify_all(
        {
            "gold": row["ground_truth"],
            "response": row["response"],
            "reasoning_open": True,
            "allow_fallback": True,
        }
        for row in traces
    )
    assert {verdict.verdict for verdict in verdicts} == {"correct", "incorrect"}
    assert sum(map(bool, verdicts)) > 0.95 * len(traces)


def test_choice_traces(pool):
    """Check MMLU-Pro letters of up to ten choices: only the gold letter is right."""
    traces = rows("traces/pcmb_r1_traces_413.jsonl")
    letters = "ABCDEFGHIJ"
    items = [
        {
            "gold": row["answer_letter"],
            "response": rf"\boxed{{\text{{({letter})}}}}",
            "choices": letters[: len(row["options"])],
        }
        for row in traces[:60]
        for letter in letters[: len(row["options"])]
    ]
    for item, verdict in zip(items, pool.imap(items), strict=True):
        assert bool(verdict) == (f"({item['gold']})" in item["response"])


# --- golds rewritten and golds changed -----------------------------------------------------------


def math_golds() -> list[str]:
    answers = [row["answer"] for row in rows("math/train7500_answers.jsonl")]
    return [answer for answer in dict.fromkeys(answers) if answer.strip()]


def rewritten(gold: str) -> set[str]:
    """Return other spellings of the same answer."""
    spellings = {
        gold.replace("\\frac", "\\dfrac"),
        f"${gold}$",
        f"{{{gold}}}",
        f" {gold} .",
        gold.replace("\\left", "").replace("\\right", ""),
        re.sub(r"\\text\{", r"\\textbf{", gold),
        gold.replace("pmatrix", "bmatrix"),
        gold.replace("\\cup", "∪").replace("\\infty", "∞").replace("\\pi", "π"),
        re.sub(r"^\\frac\{(\d+)\}\{(\d+)\}$", r"(\1/\2)", gold),
    }
    if re.fullmatch(r"-?\d+", gold):
        spellings |= {f"{gold}.0", f"{gold}\\text{{ units}}", f"x = {gold}", f"{int(gold):,}"}
    return spellings - {gold}


def changed(gold: str, rng: random.Random) -> set[str]:
    """Return answers that differ from the gold by a digit, a sign, a bracket or a missing value."""
    answers = set()
    digits = list(re.finditer(r"\d", gold))
    if digits:
        place = rng.choice(digits)
        digit = str((int(place[0]) + rng.randint(1, 8)) % 10)
        answers.add(gold[: place.start()] + digit + gold[place.end() :])
    if re.search(r"[1-9]", gold) and re.match(r"[1-9\\](?!text|mbox|begin)", gold):
        answers.add("-" + gold)
    if "," in gold.strip(" ,") and "\\!" not in gold and not re.fullmatch(r"[\d,]+", gold):
        last = gold.rstrip(" ,").rindex(",")
        answers.add(gold[:last] + (gold[-1] if gold[-1] in ")]}" else ""))
    for bracket, other in (("[", "("), (")", "]")):
        if bracket in gold and gold.count(",") == 1 and gold.strip()[-1] in ")]":
            answers.add(gold.replace(bracket, other, 1))
    if "\\sqrt{" in gold:
        answers.add(gold.replace("\\sqrt", "", 1))
    return answers - {gold}


def test_rewritten_golds_are_equal(pool):
    pairs = [(gold, answer) for gold in math_golds()[::4] for answer in sorted(rewritten(gold))]
    items = ({"gold": gold, "response": rf"\boxed{{{answer}}}"} for gold, answer in pairs)
    wrong = [pair for pair, verdict in zip(pairs, pool.imap(items), strict=True) if not verdict]
    assert len(pairs) > 1500
    assert wrong == []


def test_changed_golds_are_not_equal(pool):
    rng = random.Random(0)
    pairs = [(gold, answer) for gold in math_golds()[::4] for answer in sorted(changed(gold, rng))]
    items = ({"gold": gold, "response": rf"\boxed{{{answer}}}"} for gold, answer in pairs)
    wrong = [pair for pair, verdict in zip(pairs, pool.imap(items), strict=True) if verdict]
    assert len(pairs) > 900
    assert wrong == []

"""Test scores of responses: metrics by hand, classes of equal answers, real gold answers."""

import random
from collections import Counter

import pytest

from custom_components.verifier.pool.options import VerifierConfig
from eval.results import summary
from eval.scoring import (
    REASONING_OPEN,
    ROUNDING,
    Response,
    equivalence_classes,
    pool,
    score,
    use_verifier,
    verified_responses,
)
from eval.tasks import functions

DOC = {"id": "1", "problem": "?", "answer": "\\frac{1}{2}", "difficulty": None, "choices": None}


def boxed(answer):
    return f"<think>x</think>\\boxed{{{answer}}}"


def test_metrics_by_hand():
    cut = Response.of("<think>it goes on", "length", num_tokens=7)
    texts = [boxed("0.5"), boxed("1/3"), boxed("\\frac{1}{3}"), boxed("1/2"), "<think>never", cut]
    got = score(DOC, [texts])
    assert got["accuracy"] == pytest.approx(2 / 6)
    assert (got["pass_at_n"], got["cons_at_n"], got["tied"]) == (1, 0.5, 1)  # two against two
    assert got["truncated"] == pytest.approx(2 / 6)  # reasoning that never closes counts as cut off
    assert got["no_answer"] == pytest.approx(2 / 6)
    assert got["response_length"] == pytest.approx(sum(map(len, texts)) / 6)
    assert [s["label"] for s in got["samples"]] == [0, 1, 1, 0, None, None]
    assert [s["num_tokens"] for s in got["samples"]] == [0] * 5 + [7]


def test_answers_are_the_same_by_the_verifier():
    predictions = ["1/2", "0.5", "12", None, "13", "12", "50\\%", "\\frac{24}{2}"]
    classes = equivalence_classes(predictions, [False] * 8)
    assert classes[:4] == [1, 1, 2, None]
    assert classes[4:6] == [3, 2] and classes[7] == 2
    # Correct answers are one class, however they are written.
    assert equivalence_classes(["a", "b", "c"], [True, False, True]) == [0, 1, 0]
    assert equivalence_classes(["A", "B", "A"], [False] * 3, "ABCD") == [1, 2, 1]


def test_a_prompt_that_opened_the_reasoning(monkeypatch):
    """Without its own <think>, a response that is cut off looks like an answer."""
    text = "so \\boxed{1/2} maybe, but"
    assert score(DOC, [text])["accuracy"] == 1
    opened = score(DOC, [Response.of(text, "stop", reasoning_open=True)])
    assert (opened["truncated"], opened["accuracy"]) == (1, 0)
    [kept] = opened["samples"]
    assert kept["reasoning_open"] and kept["finish_reason"] == "stop"
    monkeypatch.setenv(REASONING_OPEN, "1")
    assert score(DOC, [text])["accuracy"] == 0
    assert score(DOC, ["wait</think>\\boxed{1/2}"])["accuracy"] == 1


def test_decimals_that_round_to_the_gold_count_where_that_is_set(monkeypatch):
    monkeypatch.setattr("eval.scoring._options", None)  # an evaluation in this process sets them
    doc = DOC | {"answer": "8.25"}
    assert score(doc, [boxed("8.246")])["accuracy"] == 0
    monkeypatch.setenv(ROUNDING, "1")
    assert score(doc, [boxed("8.246")])["accuracy"] == 1
    assert score(doc, [boxed("8.26")])["accuracy"] == 0
    use_verifier(VerifierConfig(workers=1, time_limit=4.0))  # the recipe's config decides
    assert score(doc, [boxed("8.246")])["accuracy"] == 0
    assert (pool().workers, pool().time_limit, pool().rounding) == (1, 4.0, False)
    use_verifier(VerifierConfig(rounding=True))
    assert score(doc, [boxed("8.246")])["accuracy"] == 1


def test_summary_by_hand():
    rows = []
    for name, answers in (("a", "1222"), ("b", "1111"), ("c", "2345"), ("d", "1122")):
        doc = {"id": name, "answer": "1", "difficulty": "easy" if name == "b" else "hard"}
        metrics = score(doc, [[boxed(x) for x in answers]])
        rows.append({**doc, **metrics})
    got = summary(rows)
    assert (got["n_problems"], got["n_samples"], got["repeats"]) == (4, 16, 4)
    assert got["accuracy"] == pytest.approx((0.25 + 1 + 0 + 0.5) / 4)
    assert got["pass_at_k"]["1"] == pytest.approx(got["accuracy"])
    # For two of four samples it is 1 - (1 - c/4)(1 - c/3), with c = 1, 4, 0, 2.
    assert got["pass_at_k"]["2"] == pytest.approx((0.5 + 1 + 0 + 1 - 1 / 6) / 4)
    assert got["pass_at_k"]["4"] == pytest.approx(3 / 4)
    assert got["cons_at_k"]["4"] == pytest.approx((0 + 1 + 0 + 0.5) / 4)
    assert got["ties"] == 2  # c: four answers; d: two against two
    assert got["num_tokens"] is None
    assert got["by_difficulty"]["easy"]["accuracy"] == 1
    low, high = got["ci"]
    assert low < got["accuracy"] < high


@pytest.mark.parametrize("name", ["aime24", "aime25", "math500", "gsm8k_test"])
def test_all_golds_score_one_and_shuffled_ones_what_chance_allows(data_dir, monkeypatch, name):
    monkeypatch.setenv("REASONTUNE_DATA", str(data_dir))
    docs = list(getattr(functions, name)()["test"])
    golds = [doc["answer"] for doc in docs]
    right = [verified_responses(doc, [boxed(doc["answer"])])[0] for doc in docs]
    assert [s["verdict"] for s in right if s["verdict"] != "correct"] == []
    shuffled = random.Random(0).sample(golds, len(golds))
    hits = sum(
        verified_responses(doc, [boxed(gold)])[0]["verdict"] == "correct"
        for doc, gold in zip(docs, shuffled, strict=True)
    )
    same = sum(a == b for a, b in zip(golds, shuffled, strict=True))
    assert same <= hits <= same + 0.01 * len(docs)
    expected = sum(n * n for n in Counter(golds).values()) / len(golds)
    assert hits <= expected + 4 * expected**0.5 + 3

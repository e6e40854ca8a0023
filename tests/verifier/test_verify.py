"""Check `verify` on the golden cases, in process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from custom_components.verifier import Verdict, verify

from .answers import STATED
from .corpus import CORPUS
from .responses import RESPONSES


@pytest.mark.parametrize("form", CORPUS)
def test_corpus(form):
    wrong = []
    for gold, answer, right in CORPUS[form]:
        verdict = verify(gold, rf"So the answer is $\boxed{{{answer}}}$.")
        if verdict.verdict != ("correct" if right else "incorrect"):
            wrong.append((gold, answer, right, verdict))
    assert not wrong


@pytest.mark.parametrize("form", CORPUS)
def test_corpus_as_bare_predictions(form):
    wrong = []
    for gold, answer, right in CORPUS[form]:
        verdict = verify(gold, answer, extract=False)
        if verdict.verdict != ("correct" if right else "incorrect"):
            wrong.append((gold, answer, right, verdict))
    assert not wrong


@pytest.mark.parametrize("form", CORPUS)
def test_every_answer_equals_itself(form):
    for gold, answer, _ in CORPUS[form]:
        for text in (gold, answer):
            verdict = verify(text, rf"\boxed{{{text}}}")
            assert verdict.verdict == "correct", (text, verdict)


@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: case[0])
def test_response(case):
    _, gold, response, options, outcome, reason = case
    verdict = verify(gold, response, **options)
    assert (verdict.verdict, verdict.reason) == (outcome, reason), verdict


def test_stated_answers():
    verdicts = [(gold, text, bool(verify(gold, text))) for gold, text, _ in STATED]
    assert verdicts == STATED


def test_corpus_is_broad():
    cases = [case for form in CORPUS.values() for case in form]
    assert len(cases) > 400
    assert sum(right for *_, right in cases) > 200
    assert sum(not right for *_, right in cases) > 120


def test_only_correct_is_true():
    assert verify("1", r"\boxed{1}")
    assert not verify("1", r"\boxed{2}")
    assert not Verdict("undecided", "gold_empty")


def test_prediction_is_what_was_compared():
    assert verify("5", r"\boxed{x = 4}").prediction == "x = 4"
    assert verify("5", r"\boxed{4}, \boxed{5}").prediction == "4, 5"
    assert verify("5", "nothing").prediction is None


@pytest.mark.parametrize("gold, response", [(None, r"\boxed{1}"), ("1", None), (1, 1), ([], {})])
def test_wrong_types_do_not_raise(gold, response):
    assert verify(gold, response).verdict == "undecided"


def test_import_is_light():
    code = (
        "import sys, custom_components.verifier;"
        "assert not {'torch', 'sympy', 'math_verify'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

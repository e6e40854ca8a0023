"""Try inputs made to crash, to hang, to eat memory or to be taken for an answer."""

from __future__ import annotations

import resource
import time

import pytest

from custom_components.verifier import VerifierPool, verify

LIMIT = 3.0
GOLDS = ["42", r"\sqrt{2}x", "1, 2"]


def box(text: str) -> str:
    return rf"So the answer is $\boxed{{{text}}}$."


HOSTILE = {
    "a tower of powers": box("9^{9^{9^9}}"),
    "a tower without braces": box("9^9^9^9"),
    "a large power": box("2^{100000000000}"),
    "a large power of a sum": box("(1+10^{-9})^{10^{12}}"),
    "a power of symbols": box("(x+y)^{999999}"),
    "symbols to symbols": box("x^{x^{x^{x^{x}}}}"),
    "exponentials": box("e^{e^{e^{10}}}"),
    "a factorial": box("100000000!"),
    "factorials": box("((9!)!)!"),
    "a binomial": box(r"\binom{1000000000}{500000000}"),
    "the gamma function": box(r"\Gamma(100000000)"),
    "a sine of much": box(r"\sin(10^{999999})"),
    "a floor of much": box(r"\lfloor \pi^{999999} \rfloor"),
    "a harmonic sum": box(r"\sum_{k=1}^{10^{9}} \frac{1}{k}"),
    "an integral": box(r"\int \frac{\sin(x^{3}) e^{x^{2}}}{\log(x)+x^{x}} dx"),
    "a large identity": box(r"\operatorname{eye}(1000000000)"),
    "a symbolic determinant": box(
        r"\begin{vmatrix}"
        + r"\\".join("&".join(f"x_{{{9 * i + j}}}" for j in range(9)) for i in range(9))
        + r"\end{vmatrix}"
    ),
    "500 nested fractions": box(r"\frac{1}{" * 500 + "2" + "}" * 500),
    "nested fractions within the caps": box(r"\frac{1}{1+" * 20 + "x" + "}" * 20),
    "20 nested roots": box(r"\sqrt{" * 20 + "2" + "}" * 20),
    "300 parentheses": box("(" * 300 + "1" + ")" * 300),
    "20 parentheses": box("(" * 20 + "1" + ")" * 20),
    "bars": box("|1" * 40 + "|"),
    "a megabyte of braces": box("{" * 500_000 + "}" * 500_000),
    "a megabyte of open braces": r"\boxed{" + "{" * 1_000_000,
    "a megabyte of backslashes": box("\\" * 1_000_000),
    "a megabyte of spaces": "\\boxed" + " " * 1_000_000,
    "a megabyte of nothing": "a" * 1_000_000,
    "a hundred thousand digits": box("9" * 100_000),
    "a long sum": box("1+" * 5000 + "1"),
    "commas": box("," * 1900),
    "equals signs": box("=" * 1900),
    "dollars": box("$" * 1900),
    "ands": box(" and " * 380),
    "60 plus-minus signs": box(r"\pm 1" * 60),
    "powers": box("x^" * 300 + "2"),
    "a thousand equal boxes": r"\boxed{7}" * 1000,
    "a thousand boxes": " ".join(rf"\boxed{{{i}}}" for i in range(1000)),
    "a thousand boxes with words between": " then ".join(rf"\boxed{{{i}}}" for i in range(1000)),
    "two thousand nested boxes": r"\boxed{" * 2000 + "42" + "}" * 2000,
    "boxes never closed": r"\boxed{" * 100_000,
    "a hundred thousand <think>": "<think>" * 100_000 + box("42"),
    "only in the reasoning": r"<think>so \boxed{42}, \boxed{1, 2}, \boxed{\sqrt{2}x}</think> Done.",
    "NUL": box("4\0 2"),
    "only NUL": box("\0"),
    "bytes that are not UTF-8": box(b"4\xff2".decode("utf-8", "surrogateescape")),
    "control characters": box("4\x1b[2J\x082"),
    "sympy's eval": box("__import__('os').system('echo 42')"),
    "sympy's eval in LaTeX": box(r"\operatorname{eval}(42)"),
    "a lambda": box("(lambda: 42)()"),
    "attributes": box("x.__class__.__mro__[1]"),
    "Arabic-Indic digits": box("٤٢"),
    "Cyrillic letters": box("√2х"),
    "a right-to-left override": box("\u202e24"),
    "many candidates": box("40, 41, 42, 43"),
    "all candidates": box(", ".join(map(str, range(1, 120)))),
    "an empty string": "",
    "white space": " \n\t ",
    "an empty box": r"\boxed{}",
    "a blank box": r"\boxed{\,\quad}",
    "a box of a box of nothing": r"\boxed{\boxed{}}",
    "the fallback's words": "the answer is " * 50_000,
    "answer tags": "<answer>" * 50_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_in_process_each_is_incorrect_within_the_limit(name):
    verify("1", r"\boxed{\sqrt{2}}")  # loads the computer algebra
    for gold in GOLDS:
        start = time.monotonic()
        verdict = verify(gold, HOSTILE[name], allow_fallback=name == "answer tags")
        assert verdict.verdict == "incorrect", (gold, verdict)
        assert time.monotonic() - start < LIMIT, gold
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 << 20  # KiB


def test_in_the_pool_none_is_fatal():
    items = [{"gold": gold, "response": text} for text in HOSTILE.values() for gold in GOLDS]
    with VerifierPool(workers=1, time_limit=LIMIT) as pool:
        pool.verify("1", r"\boxed{1}")
        (before,) = [process.pid for process in pool._engine.processes]
        verdicts = pool.verify_all(items)
        (after,) = [process.pid for process in pool._engine.processes]
    assert {verdict.verdict for verdict in verdicts} == {"incorrect"}
    assert before == after  # the caps alone were enough


def test_as_a_gold_each_is_decided_or_undecided():
    for text in HOSTILE.values():
        verdict = verify(text, r"\boxed{5}", extract=True)
        assert verdict.verdict in ("incorrect", "undecided")
        assert verdict.reason != "internal_error"


def test_full_width_digits_are_digits():
    assert verify("42", box("４２"))


def test_nothing_is_executed(tmp_path):
    target = tmp_path / "executed"
    for text in (
        f"__import__('pathlib').Path('{target}').touch()",
        f"\\text{{__import__('pathlib').Path('{target}').touch()}}",
        f"\\variable{{__import__('pathlib').Path('{target}').touch()}}",
        f"x=__import__('pathlib').Path('{target}').touch()",
        f"f(__import__('pathlib').Path('{target}').touch())",
    ):
        assert verify("42", box(text)).verdict == "incorrect"
        assert verify(text, box("42")).verdict != "correct"
    assert not target.exists()

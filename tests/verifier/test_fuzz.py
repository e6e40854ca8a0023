"""Verify random text made of LaTeX pieces: there is always a verdict, and never a false hit."""

from __future__ import annotations

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from custom_components.verifier import verify
from custom_components.verifier.read.latex import clean, closing, compact, split_top

PIECES = st.sampled_from(
    r"""\frac \frac{1}{2} \sqrt \sqrt{2} { } ( ) [ ] \{ \} , ; = < > \le \in \cup \pm ^ _ ^2 ^{2}
    + - / \cdot \times 0 1 2 12 1,000 .5 0.25 x y n e i \pi \infty \text{ } \text{cm} \text{or} and
    or % \% ° ^\circ \$ $ : ! ' | \left \right \begin{pmatrix} \end{pmatrix} & \\ \boxed{ \fbox{5}
    \sin \log \binom{4}{2} \ldots _5 \mathbb{R} \emptyset \overline{3} \approx \ne x=3 apples
    """.split()
    + [" ", "\n", "\t", "\0", "é", "²", "−", "🙂"]
)
TEXT = st.lists(PIECES, max_size=10).map("".join)
FAST = settings(
    max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@FAST
@given(TEXT, TEXT)
def test_always_a_verdict(gold, answer):
    for response in (rf"\boxed{{{answer}}}", answer):
        verdict = verify(gold, response)
        assert verdict.verdict in ("correct", "incorrect", "undecided")
        assert verdict.reason != "internal_error"


@FAST
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_characters(gold, answer):
    assert verify(gold, answer).reason != "internal_error"
    assert verify(gold, answer, extract=False).reason != "internal_error"


@FAST
@given(TEXT)
@example(r"\\\\\frac")
def test_cleaning_is_idempotent_for_comparison(text):
    once = clean(text)
    assert compact(clean(once)) == compact(clean(clean(once)))
    assert "".join(split_top(once, {","})).count(",") <= once.count(",")
    assert closing(once, 0) < len(once)


@FAST
@given(
    st.integers(-(10**12), 10**12),
    st.integers(-(10**12), 10**12),
    st.sampled_from(
        ["{}", "{:,}", "{}.0", "+{}", r"\text{{{}}}", "x = {}", "({})", r"{} \text{{ m}}"]
    ),
)
def test_integers_are_equal_exactly_when_they_are(gold, value, form):
    written = form.format(abs(value) if form == "+{}" else value)
    value = abs(value) if form == "+{}" else value
    for answer, goal in ((written, gold), (written, value)):
        assert bool(verify(str(goal), rf"\boxed{{{answer}}}")) == (goal == value), (goal, answer)


@FAST
@given(st.integers(-999, 999), st.integers(1, 99), st.integers(-999, 999), st.integers(1, 99))
def test_fractions_are_equal_exactly_when_they_are(a, b, c, d):
    same = a * d == c * b
    forms = (
        rf"\frac{{{c}}}{{{d}}}",
        f"{c}/{d}",
        rf"-\frac{{{-c}}}{{{d}}}",
        rf"\dfrac{{{c}}}{{{d}}}",
    )
    for form in forms:
        assert bool(verify(rf"\frac{{{a}}}{{{b}}}", rf"\boxed{{{form}}}")) == same

"""Decide one pair: `verify` and the policy of the verifier, to be read from top to bottom."""

from __future__ import annotations

from functools import lru_cache

from custom_components.verifier.compare.equal import equal_nodes, exercise
from custom_components.verifier.compare.scalars import ROUNDING, Unevaluated
from custom_components.verifier.limits import MAX_ANSWER, MAX_RESPONSE, TooComplex, Unreadable
from custom_components.verifier.read import extract as extraction
from custom_components.verifier.read.latex import clean, compact
from custom_components.verifier.read.nodes import Node, Num, Word
from custom_components.verifier.read.parse import parse
from custom_components.verifier.read.words import choice_letter
from custom_components.verifier.types import Item, Verdict

_LETTERS = "ABCDEFGHIJ"


def verify(
    gold: str,
    response: str,
    *,
    reasoning_open: bool = False,
    truncated: bool = False,
    allow_fallback: bool = False,
    choices: str | None = None,
    extract: bool = True,
    problem: str | None = None,
    rounding: bool = False,
) -> Verdict:
    """Return the verdict on whether a response gives the gold's answer. Never raises.

    An input that no cap catches may take long: use VerifierPool for what a model wrote.

    Args:
        gold: Reference answer, LaTeX or text; it may be in a box or behind `####`.
        response: Text of the model.
        reasoning_open: Whether the prompt already opened `<think>`.
        truncated: Whether generation stopped at a length limit, which explains a missing answer.
        allow_fallback: Whether `####`, `<answer>` and "the answer is" count where there is no box.
        choices: Letters of a multiple-choice question, such as "ABCD".
        extract: Whether to look for the answer in `response`; False when it is the answer itself.
        problem: Text of the question; an expression copied from it does not count as an answer.
        rounding: Whether a gold that is a decimal accepts every decimal that rounds to it.
    """
    try:
        options = (reasoning_open, truncated, allow_fallback, choices, extract, problem, rounding)
        return decide(Item(gold, response, *options))
    except Exception:
        return Verdict("undecided", "internal_error")


def decide(item: Item) -> Verdict:
    """Return the verdict on an item, as `verify` does, but let errors through.

    Raises:
        MemoryError: when the process has no memory left.
        TypeError: when a field of the item has the wrong type.
    """
    gold = read_gold(item.gold, item.choices)
    if isinstance(gold, str):
        return Verdict("undecided", gold)
    extracted = _extracted(item)
    if isinstance(extracted, Verdict):
        return extracted
    prediction = ", ".join(extracted.answers)
    if item.choices:
        return _decide_choice(gold, extracted.answers, item.choices)
    token = ROUNDING.set(item.rounding)
    try:
        return _decide_answers(gold, extracted, prediction, item.problem)
    except Unevaluated:
        return Verdict("incorrect", "unevaluated", prediction)
    except (Unreadable, TooComplex) as error:
        kind = "too_complex" if isinstance(error, TooComplex) else "unreadable"
        if error.side == "gold":
            return Verdict("undecided", f"gold_{kind}", prediction)
        return Verdict("incorrect", f"answer_{kind}", prediction)
    except RecursionError:
        return Verdict("incorrect", "answer_too_complex", prediction)
    finally:
        ROUNDING.reset(token)


def check_gold(gold: str, choices: str | None = None) -> str:
    """Return "ok", or the reason why a gold cannot be compared with anything."""
    node = read_gold(gold, choices)
    if isinstance(node, str):
        return node
    try:
        exercise(node)
    except Unreadable:
        return "gold_unreadable"
    except (TooComplex, RecursionError):
        return "gold_too_complex"
    return "ok"


@lru_cache(maxsize=4096)
def read_gold(gold: str, choices: str | None = None) -> Node | str:
    """Return the gold's tree, or the reason why it has none."""
    text = gold.strip()
    if "\\boxed" in text or "\\fbox" in text or "####" in text:
        text = ", ".join(extraction.final_answer(text[-MAX_RESPONSE:], fallback=True).answers)
    if not text.strip():
        return "gold_empty"
    try:
        if not choices:
            return parse(text)
        letter = choice_letter(clean(text), choices)
        return Word(letter, letter) if letter else "gold_unreadable"
    except Unreadable:
        return "gold_unreadable"
    except (TooComplex, RecursionError):
        return "gold_too_complex"


def _extracted(item: Item) -> extraction.Extracted | Verdict:
    """Return the final answer, or the verdict on a response that has none."""
    if len(item.response) > MAX_RESPONSE:
        return Verdict("incorrect", "response_too_long")
    if item.extract:
        extracted = extraction.final_answer(
            item.response,
            reasoning_open=item.reasoning_open,
            truncated=item.truncated,
            fallback=item.allow_fallback,
        )
    else:
        extracted = extraction.bare_answer(item.response)
    answers = extracted.answers
    shown = ", ".join(answers)[:MAX_ANSWER] if answers else None
    if extracted.problem:
        return Verdict("incorrect", extracted.problem, shown)
    if any(len(answer) > MAX_ANSWER for answer in answers):
        return Verdict("incorrect", "answer_too_long", shown)
    return extracted


def _decide_answers(
    gold: Node, extracted: extraction.Extracted, prediction: str, problem: str | None
) -> Verdict:
    nodes = [parse(answer) for answer in extracted.answers]
    if len(nodes) > 1:  # every box must be the gold, or all of them together
        every_box = all(equal_nodes(gold, node) for node in nodes)
        if every_box or equal_nodes(gold, parse(extracted.together)):
            return Verdict("correct", "equal", prediction)
        return Verdict("incorrect", "several_answers", prediction)
    node = nodes[0]
    if gold.key == node.key:
        return Verdict("correct", "same_text", prediction)
    if isinstance(gold, Word) and len(gold.words) == 1 and gold.words.isupper():
        letter = choice_letter(clean(prediction), _LETTERS)
        if letter and letter == choice_letter(gold.key, _LETTERS):
            return Verdict("correct", "same_choice", prediction)
    if problem and _copied(node, problem):
        return Verdict("incorrect", "copied_from_problem", prediction)
    if not equal_nodes(gold, node):
        return Verdict("incorrect", "not_equal", prediction)
    numbers = isinstance(gold, Num) and isinstance(node, Num)
    return Verdict("correct", "same_number" if numbers else "equal", prediction)


def _copied(node: Node, problem: str) -> bool:
    """Return whether the problem contains an expression as it is."""
    if isinstance(node, (Num, Word)) or len(node.key) < 3:
        return False
    return node.key in compact(clean(problem[:MAX_RESPONSE]))


def _decide_choice(gold: Node, answers: tuple[str, ...], choices: str) -> Verdict:
    prediction = ", ".join(answers)
    letters = {choice_letter(clean(answer), choices) for answer in answers}
    if len(letters) > 1:
        return Verdict("incorrect", "several_answers", prediction)
    if letters == {None}:
        return Verdict("incorrect", "no_choice", prediction)
    if letters == {gold.key}:
        return Verdict("correct", "same_choice", prediction)
    return Verdict("incorrect", "not_equal", prediction)

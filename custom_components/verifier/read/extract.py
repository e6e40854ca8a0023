"""Find the answer that a response states: in the last boxes behind its reasoning."""

from __future__ import annotations

import re
from dataclasses import dataclass

from custom_components.verifier.limits import MAX_ANSWER, MAX_BOXES
from custom_components.verifier.read.latex import closing

_OPEN, _CLOSE = "<think>", "</think>"
_COMMAND = re.compile(r"\\(?:boxed|fbox)\s*")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=[{\s\d\\a-zA-Z(-])")
# These words join candidates, and the next ones may accompany them. A gap of these alone between
# two boxes enumerates; any other word (wait, so, correct, therefore) makes the next box a statement
# of its own.
_JOINING = frozenset(
    "or and also either else otherwise alternatively maybe perhaps possibly both nor plus "
    "et ou y oder und".split()
)
_FILLING = frozenset(
    "the a an it is are could would might may can be answer answers value values solution "
    "solutions another other one possible possibility option equal equals equally as well even "
    "just then with in that x y z n t m k p q r s b c d f g u v w i".split()
)
_LIST_MARK = re.compile(r"(?m)^\s*(?:[-*+•]|\(?(?:\d{1,2}|[a-z]|[ivx]{1,4})[.)])\s+", re.I)
_NAME_EQUALS = re.compile(r"[A-Za-z](?:_\{?\w+\}?|\([\w,]*\)|')*\s*(?:=|:|&=|\\in)")
_DECORATION = re.compile(
    r"\\(?:quad|qquad|text|mathrm|textbf|displaystyle|left|right|begin|end|hline|newline|par)\b"
    r"|\\[()\[\],;:!> ]|\\\\|[$*_~{}&|()\[\]#>`\"']"
)
_TOKEN = re.compile(r"\\[a-zA-Z]+|\S")
_MAX_GAP = 200  # characters between two boxes of one statement
_MAX_STARTS = 4 * MAX_BOXES  # box commands looked at, from the end
_MAX_SPAN = 20 * MAX_ANSWER  # characters in which a box's closing brace is looked for


@dataclass(frozen=True)
class Extracted:
    """Hold the answers of the final statement, or why there are none.

    Attributes:
        answers: Contents of the final boxes: none, one or several.
        problem: Reason code when the answers do not count; None when they do.
    """

    answers: tuple[str, ...]
    problem: str | None = None


def visible(response: str, reasoning_open: bool) -> str | None:
    """Return the text after the reasoning; None when the reasoning has not closed.

    Reasoning closes at the last `</think>`. It is open when a `<think>` follows that, or when there
    is no `</think>` and the prompt or the response opened it.
    """
    head, close, tail = response.rpartition(_CLOSE)
    if not close:
        return None if reasoning_open or _OPEN in response else response
    return None if _OPEN in tail else tail


def final_answer(
    response: str, *, reasoning_open: bool = False, truncated: bool = False, fallback: bool = False
) -> Extracted:
    """Return the answer that a response states.

    Args:
        response: Text of the model.
        reasoning_open: Whether the prompt already opened `<think>`.
        truncated: Whether generation stopped at a length limit.
        fallback: Whether `####`, `<answer>` and "the answer is" count where there is no box.
    """
    text = visible(response, reasoning_open)
    if text is None:
        return Extracted((), "truncated" if truncated else "reasoning_open")
    answers = last_boxes(text)
    if answers is None and fallback:
        answers = _stated(text)
    if answers is None:
        return Extracted((), "truncated" if truncated else "no_answer")
    return _checked(answers)


def bare_answer(text: str) -> Extracted:
    """Return the answer in a text that is the answer itself, in a box or not."""
    boxes = last_boxes(text)
    return _checked([text] if boxes is None else boxes)


def _checked(answers: list[str]) -> Extracted:
    if len(answers) > MAX_BOXES:
        return Extracted(tuple(answers[-1:]), "several_answers")
    if not all(answer.strip() for answer in answers):
        return Extracted(tuple(answers[-1:]), "empty_answer")
    return Extracted(tuple(answers))


def last_boxes(text: str) -> list[str] | None:
    """Return the contents of the last statement's boxes; None when there is no complete box.

    An unclosed last box is not an answer, and hides the boxes before it.
    """
    starts = [match.start() for match in _BOX.finditer(text)]
    boxes: list[tuple[int, int, str]] = []
    for start in reversed(starts[-_MAX_STARTS:]):
        box = _box_at(text, start)
        if box is None:
            if not boxes:
                return None
            break
        end, content = box
        if boxes and end > boxes[-1][0]:  # \boxed{x = \boxed{5}}: the outer box is the statement
            boxes.pop()
        elif boxes and not _joined(text[end : boxes[-1][0]]):
            break
        boxes.append((start, end, content))
        if len(boxes) > MAX_BOXES:
            break
    if not boxes:
        return None
    return [content for _, _, content in reversed(boxes)]


def _box_at(text: str, start: int) -> tuple[int, str] | None:
    """Return (end, content) of the box command at `start`; None when its brace never closes."""
    command = _COMMAND.match(text, start)
    if command is None or command.end() == len(text):
        return None
    brace = command.end()
    if text[brace] == "{":
        window = text[brace : brace + _MAX_SPAN]
        end = closing(window, 0)
        if end < 0:  # \boxed{12\}: a stray backslash before the brace
            end = closing(window.replace("\\", " "), 0)
        return None if end < 0 else (brace + end + 1, window[1:end])
    token = _TOKEN.match(text, brace)  # \boxed 5, as TeX reads it
    return (token.end(), token[0]) if token else None


def _joined(gap: str) -> bool:
    """Return whether the text between two boxes makes them candidates of one statement."""
    if len(gap) > _MAX_GAP:
        return False
    gap = _LIST_MARK.sub(" ", gap)
    gap = _DECORATION.sub(" ", gap)
    gap = _NAME_EQUALS.sub(" ", gap)
    words = re.findall(r"[^\W\d_]+|\d+|=", gap.lower())
    if not words:
        return True
    return all(w in _JOINING or w in _FILLING for w in words) and any(w in _JOINING for w in words)


_MARKERS = (
    re.compile(r"####"),
    re.compile(r"<answer>"),
    re.compile(r"\b(?:answer|result)\s*(?:\*\*)?\s*(?:is|:|=|should\s+be)\s*:?\s*(?:\*\*)?", re.I),
)
_SENTENCE_END = re.compile(r"\n|</answer>|\*\*|[.。](?=\s+[A-Z]|\s*$)|[.。]\s*(?=\n)")


def _stated(text: str) -> list[str] | None:
    """Return the answer behind `####`, `<answer>` or "the answer is"; None without such words."""
    for marker in _MARKERS:
        ends = [match.end() for match in marker.finditer(text)]
        if ends:
            stated = text[ends[-1] : ends[-1] + 2 * MAX_ANSWER].lstrip()
            return [_SENTENCE_END.split(stated, maxsplit=1)[0].strip()]
    return None

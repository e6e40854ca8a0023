"""Find the answer that a response states: in the last boxes behind its reasoning."""

from __future__ import annotations

import re
from dataclasses import dataclass

from custom_components.verifier.limits import MAX_ANSWER, MAX_BOXES
from custom_components.verifier.read.latex import closing
from custom_components.verifier.read.numerals import SCALES
from custom_components.verifier.read.units import lookup, read_unit, singular

_OPEN, _CLOSE = "<think>", "</think>"
_COMMAND = re.compile(r"\\(?:boxed|fbox)\s*")
# The argument of a box without braces: a number, a command with its arguments, a letter before the
# end of the formula. `\boxed as requested` has none.
_BARE = re.compile(
    r"[-+]?(?:\d+(?:[.,]\d+)*|\\(?:d?frac|sqrt|text|mathrm|mathbf|pi)(?![a-zA-Z])\s*(?:\{[^{}]*\}|\d)*)"
    r"|[A-Za-z](?=\s*(?:[$\\.,;)]|$))"
)
_BOX = re.compile(rf"\\(?:boxed|fbox)\s*(?=\{{|{_BARE.pattern})")
_BLANK = re.compile(r"(?:\s|\\[,;:! ]|\\q?quad|~|\$|\{\s*\})*")
# These words join candidates, and the next ones may accompany them. A gap of these alone between
# two boxes enumerates; any other word (wait, so, correct, therefore) makes the next box a statement
# of its own.
_JOINING = frozenset(
    "or and also either else otherwise alternatively maybe perhaps possibly both nor plus then "
    "likely unlikely probably et ou y oder und".split()
)
_FILLING = frozenset(
    "the a an it is are could would might may can be answer answers value values solution "
    "solutions another other one possible possibility option equal equals equally as well even "
    "just with in that more less very most least "
    "x y z n t m k p q r s b c d f g u v w i".split()
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
        names: Names before the boxes, `x` for `x = \\boxed{1}`; empty where one has none.
    """

    answers: tuple[str, ...]
    problem: str | None = None
    names: tuple[str, ...] = ()

    @property
    def together(self) -> str:
        """Return all answers as one: `1, 2`, or `x = 1, y = 2` where each has its own name."""
        if len(set(self.names)) < len(self.answers):
            return ", ".join(self.answers)
        pairs = zip(self.names, self.answers, strict=True)
        return ", ".join(f"{name} = {answer}" for name, answer in pairs)


@dataclass(frozen=True)
class _Box:
    start: int
    end: int
    content: str


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
    boxes = _final_boxes(text)
    if boxes is not None:
        return _checked([_in_context(text, box) for box in boxes], _names(text, boxes))
    answers = _stated(text) if fallback else None
    if answers is None:
        return Extracted((), "truncated" if truncated else "no_answer")
    return _checked(answers)


def bare_answer(text: str) -> Extracted:
    """Return the answer in a text that is the answer itself, in a box or not."""
    boxes = _final_boxes(text)
    if boxes is None:
        return _checked([text])
    return _checked([_in_context(text, box) for box in boxes], _names(text, boxes))


def _checked(answers: list[str], names: tuple[str, ...] = ()) -> Extracted:
    if len(answers) > MAX_BOXES:
        return Extracted(tuple(answers[-1:]), "several_answers")
    if not all(answer.strip() for answer in answers):
        return Extracted(tuple(answers[-1:]), "empty_answer")
    return Extracted(tuple(answers), names=names)


def last_boxes(text: str) -> list[str] | None:
    """Return the contents of the last statement's boxes; None when there is no complete box.

    An unclosed last box is not an answer, and hides the boxes before it. An empty box counts,
    unless another stands just before it.
    """
    boxes = _final_boxes(text)
    return None if boxes is None else [box.content for box in boxes]


def _final_boxes(text: str) -> list[_Box] | None:
    starts = [match.start() for match in _BOX.finditer(text)]
    boxes: list[_Box] = []
    empty: _Box | None = None
    for start in reversed(starts[-_MAX_STARTS:]):
        box = _box_at(text, start)
        if box is None:
            if not boxes:
                return None
            break
        if _BLANK.fullmatch(box.content):
            if empty is None and not boxes:
                empty = box
            continue
        if empty is not None and not boxes and not _beside(text[box.end : empty.start]):
            break
        if (
            boxes and box.end > boxes[-1].start
        ):  # \boxed{x = \boxed{5}}: the outer box is the statement
            boxes.pop()
        elif boxes and not _joined(text[box.end : boxes[-1].start]):
            break
        boxes.append(box)
        if len(boxes) > MAX_BOXES:
            break
    if not boxes:
        return [empty] if empty else None
    return boxes[::-1]


def _box_at(text: str, start: int) -> _Box | None:
    """Return the box of the command at `start`; None when its brace never closes."""
    command = _COMMAND.match(text, start)
    if command is None or command.end() == len(text):
        return None
    brace = command.end()
    if text[brace] == "{":
        window = text[brace : brace + _MAX_SPAN]
        end = closing(window, 0)
        if end < 0:  # \boxed{12\}: a stray backslash before the brace
            end = closing(window.replace("\\", " "), 0)
        return None if end < 0 else _Box(start, brace + end + 1, window[1:end])
    bare = _BARE.match(text, brace)  # \boxed 5
    return _Box(start, bare.end(), bare[0]) if bare else None


def _beside(gap: str) -> bool:
    """Return whether an empty box belongs to the sentence of the box before: written in \\boxed{}."""
    return len(gap) <= _MAX_GAP and "\n\n" not in gap


_SIGN_BEFORE = re.compile(r"(?:[=($\[]|\\approx)\s*(?P<sign>[-−]|\\pm|\\mp)\s*\$?\s*$")
_SIMPLE = re.compile(r"[^-+=<>,;\s]*")
_NUMERIC = re.compile(r"(?:[\d.,/{}()\s$+-]|\\d?frac|\\sqrt|\\pi|\\cdot|\\times|\\[,!$ ])+")
_BEHIND = re.compile(
    r"(?:\s|\\[,;: ]|\$|~)*(?:(?P<percent>\\?%|percent\b)"
    r"|(?P<text>\\(?:text|mathrm|mbox|textrm)\s*\{(?P<inside>[^{}]{1,40})\}(?:\s*\^\s*\{?\d\}?)?)"
    r"|(?P<word>[A-Za-z]{3,12}|[ckm]m|[km]g|m[lL]|ft|lb|oz)\b)"
)
_NOT_BEHIND = frozenset({"cup", "min", "second", "mole", "unit", "units", "degree", "dime", "knot"})


def _in_context(text: str, box: _Box) -> str:
    """Return a box's content with the minus sign before it and the unit or "%" behind it."""
    content = box.content
    sign = _SIGN_BEFORE.search(text, max(0, box.start - 20), box.start)
    if sign:
        bare = content if _SIMPLE.fullmatch(content) else f"({content})"
        content = ("-" if sign["sign"] == "−" else sign["sign"]) + bare
    if not _NUMERIC.fullmatch(content):
        return content
    behind = _BEHIND.match(text, box.end, box.end + 60)
    if not behind:
        return content
    if behind["percent"]:
        return rf"{content}\%"
    words = behind["inside"] or behind["word"] or ""
    first = singular(words.split()[0].lower()) if words.strip() else ""
    if first in SCALES or words.strip() == "percent":
        return rf"{content} {words.strip()}"
    if behind["text"]:
        return content + behind["text"] if read_unit(words).powers else content
    return f"{content} {words}" if first not in _NOT_BEHIND and lookup(words) else content


_NAME_BEFORE = re.compile(r"(?<![A-Za-z\\])([A-Za-z](?:_\{?\w+\}?)?)\s*=\s*\$?\s*$")


def _names(text: str, boxes: list[_Box]) -> tuple[str, ...]:
    """Return the names before the boxes; empty where a box has none."""
    if len(boxes) < 2:
        return ()
    windows = [text[max(0, box.start - 30) : box.start] for box in boxes]
    names = [_NAME_BEFORE.search(window) for window in windows]
    return tuple(name[1] for name in names if name) if all(names) else ()


def _joined(gap: str) -> bool:
    """Return whether the text between two boxes makes them candidates of one statement."""
    if len(gap) > _MAX_GAP:
        return False
    gap = _LIST_MARK.sub(" ", gap)
    gap = _DECORATION.sub(" ", gap)
    gap = _NAME_EQUALS.sub(" ", gap)
    words = re.findall(r"[^\W\d_]+|\d+|=", gap)
    words = [word for word in words if lookup(word) is None or word in ("a", "A")]
    lower = [word.lower() for word in words]
    if not lower:
        return True
    joining = any(word in _JOINING for word in lower)
    return joining and all(word in _JOINING or word in _FILLING for word in lower)


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

"""Know how much of a response's reasoning its prompt has already written.

Some chat templates end the prompt in `<think>`, so that the model writes what follows it; others end
it in an empty thought, `<think></think>`, so that the model answers at once. What is stored and
judged is always the whole response, with the `<think>` that the prompt opened: its text alone then
tells whether the reasoning has closed.
"""

import re

OPEN, CLOSE = "<think>", "</think>"
OPENED = f"{OPEN}\n"
"""Opening of a prompt that is known to end in `<think>`, but not known itself."""
_OPENING = re.compile(rf"{OPEN}\s*(?:{CLOSE}\s*)?\Z")


def opening_of(prompt: str) -> str:
    """Return the thought at the end of a prompt, open or empty; an empty text if there is none."""
    match = _OPENING.search(prompt)
    return match[0] if match else ""


def is_open(opening: str) -> bool:
    """Return whether the model goes on with the reasoning after this opening."""
    return OPEN in opening and CLOSE not in opening


def is_empty(opening: str) -> bool:
    """Return whether the opening is an empty thought, so that the model is asked not to reason."""
    return CLOSE in opening


def lacks_opening(response: str) -> bool:
    """Return whether a response closes a thought that it does not open."""
    head, close, _ = response.partition(CLOSE)
    return bool(close) and OPEN not in head


def whole_response(text: str, opening: str = "") -> str:
    """Return a generated text with the `<think>` that its prompt opened.

    Args:
        text: what the model wrote.
        opening: end of the prompt, see `opening_of`; if it is not known, only a text that closes
            the thought shows that there was one.
    """
    if is_open(opening):
        return text if text.lstrip().startswith(OPEN) else opening + text
    return OPENED + text if lacks_opening(text) else text


def rest_of_response(response: str, opening: str, finished: bool = True) -> str:
    """Return what the model writes of a whole response after a prompt with this opening.

    Args:
        response: whole response.
        opening: end of the prompt, see `opening_of`.
        finished: whether the response is not cut off.

    Raises:
        ValueError: if the prompt opens a thought that the finished response neither has nor closes:
            its answer would be part of the reasoning.
    """
    if not is_open(opening):
        return response
    text = response.lstrip()
    if text.startswith(OPEN):
        return text.removeprefix(OPEN).removeprefix(opening.removeprefix(OPEN))
    if finished and CLOSE not in response:
        raise ValueError("the chat template opens <think>, and the response has no reasoning")
    return response

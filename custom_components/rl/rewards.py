"""Reward responses by the functions that a config names.

A reward function takes the row of the problem and the `Response`, then its own arguments from the
config. It returns a number, or None for a response that it cannot judge.

    def short(problem: dict[str, Any], response: Response, target: int = 100) -> float | None:
        return -max(0, response.length - target) / target
"""

import inspect
import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from custom_components.config import UserError, get_component


@dataclass(frozen=True)
class Response:
    """Hold what a reward function may know of a response.

    Attributes:
        text: Decoded response.
        length: Tokens of the response.
        limit: Longest allowed response, tokens.
        truncated: Whether the response was cut off at the limit.
        verdict: Verdict of the verifier: correct, incorrect or undecided.
    """

    text: str
    length: int
    limit: int
    truncated: bool
    verdict: str


def verified(problem: dict[str, Any], response: Response) -> float | None:
    """Return +1 for a correct response and -1 for any other; None for an undecided one.

    A response that was cut off gets -1 even with a correct box: it never said that it was done.

    Args:
        problem: Row of the problem.
        response: Response to it.
    """
    if response.verdict == "undecided":
        return None
    return 1.0 if response.verdict == "correct" and not response.truncated else -1.0


def overlong_penalty(problem: dict[str, Any], response: Response, buffer: int) -> float:
    """Return DAPO's penalty for a long response.

    The penalty is 0 for short responses and falls linearly to -1 over the last `buffer` tokens
    (Yu et al. 2025, arXiv 2503.14476, section 3.4, eq. 13).

    Args:
        problem: Row of the problem.
        response: Response to it.
        buffer: Tokens below `max_new_tokens` over which the penalty falls.
    """
    return min(0.0, max(-1.0, (response.limit - buffer - response.length) / buffer))


@dataclass(frozen=True)
class RewardFunction:
    """Hold one of the reward functions of a config.

    Attributes:
        name: Name of the function; a second one of the same name has _2 appended, and so on.
        function: Function of the problem's row and the response, with its arguments filled in.
        weight: Factor of its value in the reward.
    """

    name: str
    function: Callable[[dict[str, Any], Response], float | None]
    weight: float

    def value(self, problem: dict[str, Any], response: Response) -> float | None:
        """Return what the function returns.

        Raises:
            ValueError: If that is neither a finite number nor None.
        """
        value = self.function(problem, response)
        if value is None:
            return None
        if not math.isfinite(number := float(value)):
            raise ValueError(f"returned {value!r}, which is not a finite number")
        return number


def read_rewards(nodes: list[dict[str, Any]]) -> list[RewardFunction]:
    """Return the reward functions that a config names.

    Args:
        nodes: `reward` of `RLConfig`, in order.

    Raises:
        UserError: If a function is missing or cannot be called with the node's arguments.
    """
    functions: list[RewardFunction] = []
    for i, node in enumerate(nodes):
        arguments = dict(node["function"])
        path = arguments.pop("_component_")
        function = get_component(path, f"reward.{i}")
        try:
            inspect.signature(function).bind({}, None, **arguments)
        except TypeError as e:
            raise UserError(
                f"reward.{i}: {path} must be a function of the problem, the response and the "
                f"arguments in the config: {e}"
            ) from e
        name = path.rpartition(".")[2]
        repeats = sum(other["function"]["_component_"] == path for other in nodes[:i])
        name = f"{name}_{repeats + 1}" if repeats else name
        functions.append(RewardFunction(name, partial(function, **arguments), node["weight"]))
    return functions


@dataclass(frozen=True)
class Reward:
    """Hold the reward of one response.

    Attributes:
        total: Weighted sum of the values; None if a function gave none.
        values: Value of each function, in the order of the config.
        error: First function that failed, its exception, and where; empty without one.
    """

    total: float | None
    values: list[float | None]
    error: str = ""


def reward_of(
    functions: list[RewardFunction], problem: dict[str, Any], response: Response
) -> Reward:
    """Return the reward of a response. An exception of a function becomes the reward's error.

    Args:
        functions: Reward functions.
        problem: Row of the problem.
        response: Response to it.
    """
    values: list[float | None] = []
    error = ""
    for reward in functions:
        try:
            values.append(reward.value(problem, response))
        except Exception as e:
            values.append(None)
            error = error or f"{reward.name}: {describe(e)}"
    if any(value is None for value in values):
        return Reward(None, values, error)
    pairs = zip(functions, values, strict=True)
    return Reward(math.fsum(f.weight * v for f, v in pairs if v is not None), values)


def describe(error: Exception) -> str:
    """Return an exception in one line, with the place that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{message} ({Path(frame.filename).name}, line {frame.lineno})"

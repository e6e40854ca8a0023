"""Watch an engine: a stall or a crash ends the run with a message, never with a hang."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch

from custom_components.config import Component, UserError, get_component, instantiate
from custom_components.engines.engine import (
    Completion,
    Conversation,
    Engine,
    Reply,
    Sampling,
    TextEngine,
    TokensAsText,
    stream,
)
from custom_components.engines.heartbeat import beats
from custom_components.tokenizer.chat import ChatTokenizer

STALLED = 75
"""Exit status after a stall, EX_TEMPFAIL: the same command continues the run."""


@contextmanager
def watchdog(seconds: float, what: str) -> Iterator[None]:
    """End the process with `STALLED` when there is no `heartbeat.beat` for `seconds`.

    A stalled engine cannot be interrupted from Python, so the process exits at once: files are
    whole or absent, and torchrun ends the other ranks.

    Args:
        seconds: longest time without a beat.
        what: description of the watched call, for the message.
    """
    done = threading.Event()

    def watch() -> None:
        seen, since = beats(), time.monotonic()
        while not done.wait(min(1.0, seconds / 5)):
            if beats() != seen:
                seen, since = beats(), time.monotonic()
            elif time.monotonic() - since > seconds:
                print(
                    f"\nerror: {what} made no progress for {seconds:g} s and was given up; the "
                    "same command continues where it stopped (engine_timeout sets the limit)",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(STALLED)

    thread = threading.Thread(target=watch, name="engine watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class WatchedEngine:
    """Watch every call of an engine.

    Args:
        node: `_component_` node of the engine.
        tokenizer: tokenizer of its model; None for an engine that answers in text.
        timeout: seconds without progress before the process ends; progress is a token (torch
            engine), a step (vllm) or a finished response (server).

    Attributes:
        texts: engine as a `TextEngine`, unwatched.
        dtype: dtype the engine computes in; None for an endpoint, which does not say.

    Raises:
        UserError: if the engine does not start, lacks a tokenizer, or fails in a call.
    """

    def __init__(self, node: Component, tokenizer: ChatTokenizer | None, timeout: float) -> None:
        self.timeout = timeout
        answers_in_text = hasattr(get_component(node.get("_component_"), "engine"), "complete")
        if tokenizer is None and not answers_in_text:
            raise UserError(
                f"tokenizer: {node['_component_']} needs its model's; set tokenizer._component_="
                "custom_components.tokenizer.chat.ChatTokenizer and tokenizer.path"
            )
        with self._watch("start"):
            engine = instantiate(node, "engine", tokenizer=tokenizer)
        self.engine: Engine = engine
        self.name = self.engine.name
        self.rope_factors = self.engine.rope_factors
        self.dtype: str | None = getattr(engine, "dtype", None)
        self.texts: TextEngine = engine
        if tokenizer is not None and not answers_in_text:
            self.texts = TokensAsText(engine, tokenizer)

    @contextmanager
    def _watch(self, what: str) -> Iterator[None]:
        try:
            with watchdog(self.timeout, f"the engine ({what})"):
                yield
        except (UserError, KeyboardInterrupt):
            raise
        except Exception as e:
            last = (str(e).strip().splitlines() or ["no message"])[-1]
            raise UserError(
                f"the engine failed ({what}): {type(e).__name__}: {last}; the same command "
                "continues where it stopped"
            ) from e

    def generate(
        self, prompt_ids: list[list[int]], n: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """Return n completions for each prompt, in the order of the prompts."""
        with self._watch(f"generate {n} x {len(prompt_ids)} responses"):
            return self.engine.generate(prompt_ids, n, sampling)

    def stream(
        self,
        prompt_ids: list[list[int]],
        n: int,
        sampling: Sampling,
        on_done: Callable[[int, list[Completion]], None],
    ) -> None:
        """Pass n completions for each prompt to `on_done` as they come; see `engine.stream`."""
        with self._watch(f"generate {n} x {len(prompt_ids)} responses"):
            stream(self.engine, prompt_ids, n, sampling, on_done)

    def complete(
        self,
        conversations: list[Conversation],
        n: int,
        sampling: Sampling,
        on_done: Callable[[int, list[Reply]], None],
    ) -> dict[int, str]:
        """Answer each conversation n times, in texts as they come; see `TextEngine`."""
        with self._watch(f"answer {len(conversations)} problems {n} times"):
            return self.texts.complete(conversations, n, sampling, on_done)

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace the weights. Tensors have their names in a Hugging Face checkpoint."""
        with self._watch(f"load weights of step {version}"):
            self.engine.load_weights(named_tensors, version)

    @property
    def asleep(self) -> bool:
        """Tell whether the engine has given its weights up."""
        return getattr(self.engine, "asleep", False)

    def sleep(self) -> None:
        """Free memory until the next `load_weights`."""
        with self._watch("sleep"):
            self.engine.sleep()

    def close(self) -> None:
        """Free the engine's resources."""
        with self._watch("close"):
            self.engine.close()

"""Engines under watch: a stall or a crash ends the run with a message, never with a hang."""

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
)
from custom_components.engines.heartbeat import beats
from custom_components.tokenizer.chat import ChatTokenizer

STALLED = 75  # EX_TEMPFAIL: the same command continues


@contextmanager
def watchdog(seconds: float, what: str) -> Iterator[None]:
    """End the process, non-zero, when nothing beats (see `progress.beat`) for `seconds`.

    A stalled engine cannot be interrupted from Python, so the process leaves at once: files are
    whole or absent, and torchrun ends the other ranks.

    Args:
        seconds: limit.
        what: what is being done, for the message.
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


class GuardedEngine:
    """An engine whose every call is watched.

    Args:
        node: `_component_` node of the engine.
        tokenizer: of its model; None for an engine that answers in text.
        timeout: seconds without progress before the process ends; progress is a token (torch
            engine) or a finished response (vllm, server).

    Attributes:
        texts: the engine as a `TextEngine`, unwatched.
        dtype: it computes in; None for an endpoint, which does not say.

    Raises:
        UserError: when the engine does not start, or lacks a tokenizer, and from every call that
            fails.
    """

    def __init__(self, node: Component, tokenizer: ChatTokenizer | None, timeout: float) -> None:
        self.timeout = timeout
        in_text = hasattr(get_component(node.get("_component_"), "engine"), "complete")
        if tokenizer is None and not in_text:
            raise UserError(
                f"tokenizer: {node['_component_']} needs its model's; set tokenizer._component_="
                "custom_components.tokenizer.chat.ChatTokenizer and tokenizer.path"
            )
        with self._watch("start"):
            self.engine: Engine = instantiate(node, "engine", tokenizer=tokenizer)
        self.name, self.rope_factors = self.engine.name, self.engine.rope_factors
        self.dtype: str | None = getattr(self.engine, "dtype", None)
        self.texts: TextEngine = self.engine if in_text else TokensAsText(self.engine, tokenizer)

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
        """n completions for each prompt, in the order of the prompts."""
        with self._watch(f"generate {n} x {len(prompt_ids)} responses"):
            return self.engine.generate(prompt_ids, n, sampling)

    def complete(
        self,
        conversations: list[Conversation],
        n: int,
        sampling: Sampling,
        on_done: Callable[[int, list[Reply]], None],
    ) -> dict[int, str]:
        """n texts in answer to each conversation, as they come; see `TextEngine`."""
        with self._watch(f"answer {len(conversations)} problems {n} times"):
            return self.texts.complete(conversations, n, sampling, on_done)

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace the weights; names as in a Hugging Face checkpoint."""
        with self._watch(f"load weights of step {version}"):
            self.engine.load_weights(named_tensors, version)

    def sleep(self) -> None:
        """Free what it can until the next `load_weights`."""
        with self._watch("sleep"):
            self.engine.sleep()

    def close(self) -> None:
        """Free what the engine holds."""
        with self._watch("close"):
            self.engine.close()

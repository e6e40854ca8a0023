"""Serve lm-eval with the project's rollout engines."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any, cast

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from custom_components.config import UserError
from custom_components.engines.engine import Reply, Sampling
from custom_components.engines.watchdog import WatchedEngine
from custom_components.io import Journal
from custom_components.tokenizer.chat import ChatTokenizer
from custom_components.tokenizer.thought import is_open, opening_of
from eval.scoring import Response


class EngineLM(LM):
    """Answer lm-eval's `generate_until` requests with an engine.

    Repeats of a problem are separate samples: no request has a seed of its own, and every group of
    requests has another seed.

    Args:
        engine: rollout engine, of token ids or of texts.
        tokenizer: chat tokenizer that renders the template; None if the engine takes conversations.
        seed: seed of the sampling.
        sampling: keys of `generation_kwargs` that replace a task's own (temperature, top_p,
            max_gen_toks).
        replies: file that keeps the replies as they come; requests in it are not sent again.
        group: requests that go to the engine in one call.

    Attributes:
        seconds: time spent in the engine.
    """

    def __init__(
        self,
        engine: WatchedEngine,
        tokenizer: ChatTokenizer | None,
        seed: int = 0,
        sampling: dict[str, float] | None = None,
        replies: Path | None = None,
        group: int = 256,
    ) -> None:
        super().__init__()
        self.engine = engine
        self.tokenizer = tokenizer
        self.seed = seed
        self.group = group
        self.sampling = sampling or {}
        self.journal = Journal(replies) if replies else None
        self.seconds = 0.0

    @property
    def tokenizer_name(self) -> str:
        """Return the name of lm-eval's cache of rendered requests."""
        name = self.tokenizer.path if self.tokenizer else self.engine.name
        return str(name).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the model's own template; an endpoint's is not known."""
        return self.tokenizer.hf.chat_template if self.tokenizer else ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return the prompt as text, or the conversation as JSON for an engine that renders it."""
        if self.tokenizer is None:
            return json.dumps(chat_history)
        system = self.tokenizer.system_prompt
        if system and chat_history[0]["role"] != "system":
            chat_history = [{"role": "system", "content": system}, *chat_history]
        return self.tokenizer.render(chat_history, add_generation_prompt)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return one response for each request, in order.

        Raises:
            UserError: if a task stops elsewhere than at the end of the turn, or an endpoint fails.
        """
        arguments = [cast(tuple[str, dict[str, Any]], request.args) for request in requests]
        prompts = [prompt for prompt, _ in arguments]
        settings = [self._sampling(options) for _, options in arguments]
        keys = _keys(prompts, settings)
        replies = self._kept_replies()
        for sampling in dict.fromkeys(settings):
            waiting = [
                i for i, s in enumerate(settings) if s == sampling and keys[i] not in replies
            ]
            # Groups are cut from all requests, so that a resumed run has the same seeds.
            groups: dict[int, list[int]] = {}
            for i in waiting:
                groups.setdefault(i // self.group, []).append(i)
            for number, indices in groups.items():
                seed = int.from_bytes(
                    hashlib.sha256(f"{self.seed} {number} {sampling}".encode()).digest()[:6]
                )
                fresh: dict[int, Reply] = {}
                began = time.perf_counter()
                try:
                    self._ask([prompts[i] for i in indices], sampling, seed, fresh)
                finally:  # replies of an endpoint that then fails are paid for
                    self.seconds += time.perf_counter() - began
                    for n, reply in fresh.items():
                        self._keep(keys[indices[n]], reply)
                        replies[keys[indices[n]]] = reply
        return [
            Response.of(
                replies[key].text,
                replies[key].finish_reason,
                replies[key].num_tokens,
                self._reasoning_open(prompt),
            )
            for key, prompt in zip(keys, prompts, strict=True)
        ]

    def _reasoning_open(self, prompt: str) -> bool:
        return self.tokenizer is not None and is_open(opening_of(prompt))

    def _sampling(self, options: dict[str, Any]) -> Sampling:
        options = {**options, **self.sampling}
        if options.get("until"):
            raise UserError("tasks for EngineLM stop at the end of the turn: set until: []")
        return Sampling(
            temperature=float(options.get("temperature") or 0.0),
            top_p=float(options.get("top_p", 1.0)),
            max_new_tokens=int(options.get("max_gen_toks", 1024)),
        )

    def _ask(
        self, prompts: list[str], sampling: Sampling, seed: int, replies: dict[int, Reply]
    ) -> None:
        """Put one reply to each prompt into `replies`, by the prompt's index, as they come.

        Raises:
            UserError: if an endpoint gives no reply to a prompt.
        """
        seeded = Sampling(sampling.temperature, sampling.top_p, sampling.max_new_tokens, seed)
        if self.tokenizer is not None:
            ids = [self.tokenizer.hf(p, add_special_tokens=False)["input_ids"] for p in prompts]
            for i, (c,) in enumerate(self.engine.generate(ids, 1, seeded)):
                text = self.tokenizer.decode(c.token_ids)
                replies[i] = Reply(text, len(c.token_ids), c.finish_reason)
            return

        def keep(i: int, samples: list[Reply]) -> None:
            replies[i] = samples[0]

        failures = self.engine.complete([json.loads(p) for p in prompts], 1, seeded, keep)
        if failures:
            raise UserError(
                f"{len(failures)} of {len(prompts)} requests failed, the first with: "
                f"{next(iter(failures.values()))}; the same command asks for them again"
            )

    def _kept_replies(self) -> dict[str, Reply]:
        """Return the replies that an earlier run has kept, by key."""
        if self.journal is None:
            return {}
        return {
            row["key"]: Reply(row["text"], row["num_tokens"], row["finish_reason"])
            for row in self.journal.read()
        }

    def _keep(self, key: str, reply: Reply) -> None:
        if self.journal is not None:
            self.journal.append(
                {
                    "key": key,
                    "text": reply.text,
                    "finish_reason": reply.finish_reason,
                    "num_tokens": reply.num_tokens,
                }
            )

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refuse: reasoning is measured by generating."""
        raise UserError("EngineLM generates only; use tasks with output_type generate_until")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Refuse: reasoning is measured by generating."""
        raise UserError("EngineLM generates only; use tasks with output_type generate_until")


def _keys(prompts: list[str], settings: list[Sampling]) -> list[str]:
    """Name each request by its prompt, its sampling, and how many like it came before."""
    counts: dict[str, int] = {}
    keys = []
    for prompt, sampling in zip(prompts, settings, strict=True):
        name = hashlib.sha256(f"{prompt}\0{sampling}".encode()).hexdigest()[:32]
        counts[name] = counts.get(name, -1) + 1
        keys.append(f"{name}-{counts[name]}")
    return keys

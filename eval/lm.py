"""Serve lm-eval with the project's rollout engines."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from custom_components.config import UserError
from custom_components.engines.engine import Completion, Reply, Sampling, stream
from custom_components.engines.watchdog import WatchedEngine
from custom_components.io import Journal
from custom_components.tokenizer.chat import ChatTokenizer
from custom_components.tokenizer.thought import is_open, opening_of
from custom_components.training.separate_ranks import SeparateRanks
from eval.scoring import Response


class AnsweredElsewhere(Exception):  # noqa: N818 (no error)
    """Signal, on every rank but the first, that all requests are answered and rank 0 scores them."""


class EngineLM(LM):
    """Answer lm-eval's `generate_until` requests with an engine.

    Several ranks, each with an engine, take groups of requests from one queue. Every rank keeps its
    replies in a file of its own, and rank 0 reads them all.

    Repeats of a problem are separate samples: no request has a seed of its own, and every group of
    requests has another seed.

    Args:
        engine: rollout engine, of token ids or of texts.
        tokenizer: chat tokenizer that renders the template; None if the engine takes conversations.
        seed: seed of the sampling.
        sampling: keys of `generation_kwargs` that replace a task's own (temperature, top_p,
            max_gen_toks).
        replies: file that keeps the replies as they come; requests in it are not sent again. Rank r
            adds `.rank_r` to its stem.
        group: requests that go to the engine in one call.
        ranks: this process among all; None if it is the only one.

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
        ranks: SeparateRanks | None = None,
    ) -> None:
        super().__init__()
        self.ranks = ranks or SeparateRanks(0, 1, torch.device("cpu"))
        self._calls = 0
        self.engine = engine
        self.tokenizer = tokenizer
        self.seed = seed
        self.group = group
        self.sampling = sampling or {}
        self.replies = replies
        self.journal: Journal | None = None
        if replies is not None:
            own = f"{replies.stem}.rank_{self.ranks.rank}{replies.suffix}"
            self.journal = Journal(replies.with_name(own) if self.ranks.rank else replies)
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
        self.ranks.barrier()  # every rank reads before one writes, so that all see the same groups
        groups = self._groups(settings, [key not in replies for key in keys])
        self._calls += 1
        queue = f"{self.replies} {self._calls}"
        while (place := self.ranks.take(queue)) < len(groups):
            number, sampling, indices = groups[place]
            seed = int.from_bytes(
                hashlib.sha256(f"{self.seed} {number} {sampling}".encode()).digest()[:6]
            )
            seeded = replace(sampling, seed=seed, logprobs=False)
            own_keys = [keys[i] for i in indices]

            def keep(n: int, reply: Reply, own_keys: list[str] = own_keys) -> None:
                self._keep(own_keys[n], reply)
                replies[own_keys[n]] = reply

            began = time.perf_counter()
            self._ask([prompts[i] for i in indices], seeded, keep)
            self.seconds += time.perf_counter() - began
        if self.ranks.size > 1:
            self.ranks.barrier()
            if self.ranks.rank:
                raise AnsweredElsewhere
            replies |= self._kept_replies()
        return [
            Response.of(
                replies[key].text,
                replies[key].finish_reason,
                replies[key].num_tokens,
                self._reasoning_open(prompt),
            )
            for key, prompt in zip(keys, prompts, strict=True)
        ]

    def _groups(
        self, settings: list[Sampling], missing: list[bool]
    ) -> list[tuple[int, Sampling, list[int]]]:
        """Return the number, the sampling and the missing requests of each group.

        Groups are cut from all requests, so that a resumed run has the same seeds.
        """
        groups: dict[tuple[Sampling, int], list[int]] = {}
        for sampling in dict.fromkeys(settings):
            for i, own in enumerate(settings):
                if own == sampling and missing[i]:
                    groups.setdefault((sampling, i // self.group), []).append(i)
        return [(number, sampling, indices) for (sampling, number), indices in groups.items()]

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
        self, prompts: list[str], sampling: Sampling, keep: Callable[[int, Reply], None]
    ) -> None:
        """Pass one reply to each prompt to `keep`, with the prompt's index, as they come.

        Raises:
            UserError: if an endpoint gives no reply to a prompt.
        """
        if self.tokenizer is not None:
            ids = [self.tokenizer.hf(p, add_special_tokens=False)["input_ids"] for p in prompts]
            decode = self.tokenizer.decode

            def keep_completion(i: int, completions: list[Completion]) -> None:
                [c] = completions
                keep(i, Reply(decode(c.token_ids), len(c.token_ids), c.finish_reason))

            stream(self.engine, ids, 1, sampling, keep_completion)
            return

        def keep_reply(i: int, samples: list[Reply]) -> None:
            keep(i, samples[0])

        failures = self.engine.complete([json.loads(p) for p in prompts], 1, sampling, keep_reply)
        if failures:
            raise UserError(
                f"{len(failures)} of {len(prompts)} requests failed, the first with: "
                f"{next(iter(failures.values()))}; the same command asks for them again"
            )

    def _kept_replies(self) -> dict[str, Reply]:
        """Return the replies that all ranks have kept, also in an earlier run, by key."""
        if self.replies is None:
            return {}
        return {
            row["key"]: Reply(row["text"], row["num_tokens"], row["finish_reason"])
            for path in reply_files(self.replies)
            for row in Journal(path).read()
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


def reply_files(replies: Path) -> list[Path]:
    """Return the files with replies of any rank.

    Args:
        replies: file of rank 0.
    """
    return [replies, *sorted(replies.parent.glob(f"{replies.stem}.rank_*{replies.suffix}"))]


def _keys(prompts: list[str], settings: list[Sampling]) -> list[str]:
    """Name each request by its prompt, its sampling, and how many like it came before."""
    counts: dict[str, int] = {}
    keys = []
    for prompt, sampling in zip(prompts, settings, strict=True):
        name = hashlib.sha256(f"{prompt}\0{sampling}".encode()).hexdigest()[:32]
        counts[name] = counts.get(name, -1) + 1
        keys.append(f"{name}-{counts[name]}")
    return keys

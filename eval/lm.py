"""The project's rollout engines as an lm-eval model."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from custom_components.config import UserError
from custom_components.engines.engine import Sampling
from custom_components.engines.watchdog import WatchedEngine
from custom_components.io import read_jsonl
from custom_components.tokenizer.chat import ChatTokenizer
from eval.scoring import Response


class EngineLM(LM):
    """Serves lm-eval's `generate_until` with an engine.

    Repeats of a problem are separate samples: no request has a seed of its own, and every group of
    requests that goes to the engine has another.

    Args:
        engine: rollout engine, of token ids or of texts.
        tokenizer: renders the chat template; None where the engine answers conversations.
        seed: of the sampling.
        sampling: keys of `generation_kwargs` that take the place of a task's own
            (temperature, top_p, max_gen_toks).
        spool: file for the responses as they come; those it holds already are not asked for again.
        group: requests that go to the engine together.

    Attributes:
        seconds: spent in the engine.
    """

    def __init__(
        self,
        engine: WatchedEngine,
        tokenizer: ChatTokenizer | None,
        seed: int = 0,
        sampling: dict[str, float] | None = None,
        spool: Path | None = None,
        group: int = 256,
    ) -> None:
        super().__init__()
        self.engine, self.tokenizer, self.seed, self.group = engine, tokenizer, seed, group
        self.sampling, self.spool, self.seconds = sampling or {}, spool, 0.0

    @property
    def tokenizer_name(self) -> str:
        """Names lm-eval's cache of the rendered requests."""
        name = self.tokenizer.path if self.tokenizer else self.engine.name
        return str(name).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The model's own; an endpoint's is not known."""
        return self.tokenizer.hf.chat_template if self.tokenizer else ""

    def apply_chat_template(self, chat_history, add_generation_prompt: bool = True) -> str:
        """The prompt as text; for an endpoint, which renders it itself, the conversation as JSON."""
        if self.tokenizer is None:
            return json.dumps(chat_history)
        system = self.tokenizer.system_prompt
        if system and chat_history[0]["role"] != "system":
            chat_history = [{"role": "system", "content": system}, *chat_history]
        return self.tokenizer.hf.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
        )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One response per request, in order.

        Raises:
            UserError: when a task wants to stop anywhere but at the end of the turn, or an endpoint
                fails.
        """
        prompts = [request.args[0] for request in requests]
        settings = [self._sampling(request.args[1]) for request in requests]
        keys = _keys(prompts, settings)
        done = self._spooled()
        for sampling in dict.fromkeys(settings):
            waiting = [i for i, s in enumerate(settings) if s == sampling and keys[i] not in done]
            # groups are cut from all requests, so that a run that goes on has the same seeds
            groups: dict[int, list[int]] = {}
            for i in waiting:
                groups.setdefault(i // self.group, []).append(i)
            for number, indices in groups.items():
                seed = int.from_bytes(
                    hashlib.sha256(f"{self.seed} {number} {sampling}".encode()).digest()[:6]
                )
                fresh: dict[int, tuple[str, str, int]] = {}
                began = time.perf_counter()
                try:
                    self._ask([prompts[i] for i in indices], sampling, seed, fresh)
                finally:  # what an endpoint gave before it failed is paid for
                    kept = {keys[indices[n]]: reply for n, reply in fresh.items()}
                    self.seconds += time.perf_counter() - began
                    self._keep(kept)
                    done |= kept
        return [
            Response.of(*done[key], self._opens(p)) for key, p in zip(keys, prompts, strict=True)
        ]

    def _opens(self, prompt: str) -> bool:
        return self.tokenizer is not None and prompt.rstrip().endswith("<think>")

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
        self,
        prompts: list[str],
        sampling: Sampling,
        seed: int,
        replies: dict[int, tuple[str, str, int]],
    ) -> None:
        """Put (text, finish reason, tokens) of one response to each prompt into `replies`."""
        asked = Sampling(sampling.temperature, sampling.top_p, sampling.max_new_tokens, seed)
        if self.tokenizer is None:
            failed = self.engine.complete(
                [json.loads(p) for p in prompts],
                1,
                asked,
                lambda i, got: replies.__setitem__(
                    i, (got[0].text, got[0].finish_reason, got[0].num_tokens)
                ),
            )
            if failed:
                why = next(iter(failed.values()))
                raise UserError(
                    f"{len(failed)} of {len(prompts)} requests failed, the first with: {why}; "
                    "the same command asks for them again"
                )
            return
        ids = [self.tokenizer.hf(p, add_special_tokens=False)["input_ids"] for p in prompts]
        for i, (c,) in enumerate(self.engine.generate(ids, 1, asked)):
            replies[i] = self.tokenizer.decode(c.token_ids), c.finish_reason, len(c.token_ids)

    def _spooled(self) -> dict[str, tuple[str, str, int]]:
        """Responses of an earlier run, without a line that it was writing when it was killed."""
        if self.spool is None or not self.spool.is_file():
            return {}
        text = self.spool.read_bytes()
        self.spool.write_bytes(text[: text.rfind(b"\n") + 1])
        return {
            row["key"]: (row["text"], row["finish_reason"], row["num_tokens"])
            for _, row in read_jsonl(self.spool)
        }

    def _keep(self, replies: dict[str, tuple[str, str, int]]) -> None:
        if self.spool is None:
            return
        names = ("text", "finish_reason", "num_tokens")
        with open(self.spool, "a", encoding="utf-8") as f:
            for key, reply in replies.items():
                f.write(json.dumps({"key": key, **dict(zip(names, reply, strict=True))}) + "\n")

    def loglikelihood(self, requests):
        """Not what reasoning is measured by."""
        raise UserError("EngineLM generates only; use tasks with output_type generate_until")

    def loglikelihood_rolling(self, requests):
        """Not what reasoning is measured by."""
        return self.loglikelihood(requests)


def _keys(prompts: list[str], settings: list[Sampling]) -> list[str]:
    """A name for each request: prompt, sampling, and how many like it came before."""
    seen: dict[str, int] = {}
    keys = []
    for prompt, sampling in zip(prompts, settings, strict=True):
        name = hashlib.sha256(f"{prompt}\0{sampling}".encode()).hexdigest()[:32]
        seen[name] = seen.get(name, -1) + 1
        keys.append(f"{name}-{seen[name]}")
    return keys

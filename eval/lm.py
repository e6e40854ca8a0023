"""The project's rollout engines as an lm-eval model."""

from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from custom_components.config import UserError
from custom_components.rollout.engine import Engine, Sampling
from custom_components.tokenizer.hf import ChatTokenizer
from eval.scoring import Response


class EngineLM(LM):
    """Serves lm-eval's `generate_until` with an engine.

    Requests with the same sampling go to the engine together; repeats of a problem are separate
    samples (no request has a seed of its own).

    Args:
        engine: rollout engine.
        tokenizer: renders the chat template.
        seed: of the sampling.
        sampling: keys of `generation_kwargs` that take the place of a task's own
            (temperature, top_p, max_gen_toks).
    """

    def __init__(
        self, engine: Engine, tokenizer: ChatTokenizer, seed: int = 0,
        sampling: dict[str, float] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.engine, self.tokenizer, self.seed = engine, tokenizer, seed
        self.sampling = sampling or {}

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.path).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.tokenizer.hf.chat_template

    def apply_chat_template(self, chat_history, add_generation_prompt: bool = True) -> str:
        system = self.tokenizer.system_prompt
        if system and chat_history[0]["role"] != "system":
            chat_history = [{"role": "system", "content": system}, *chat_history]
        return self.tokenizer.hf.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
        )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One response per request, in order."""
        groups: dict[Sampling, list[int]] = {}
        for i, request in enumerate(requests):
            options: dict[str, Any] = {**request.args[1], **self.sampling}
            if options.get("until"):
                raise UserError("tasks for EngineLM stop at the end of the turn: set until: []")
            sampling = Sampling(
                temperature=float(options.get("temperature") or 0.0),
                top_p=float(options.get("top_p", 1.0)),
                max_new_tokens=int(options.get("max_gen_toks", 1024)),
                seed=self.seed,
            )
            groups.setdefault(sampling, []).append(i)
        responses: list[str] = [""] * len(requests)
        for sampling, indices in groups.items():
            prompts = [
                self.tokenizer.hf(requests[i].args[0], add_special_tokens=False)["input_ids"]
                for i in indices
            ]
            for i, (done,) in zip(indices, self.engine.generate(prompts, 1, sampling), strict=True):
                text = self.tokenizer.decode(done.token_ids)
                responses[i] = Response.of(text, done.finish_reason)
        return responses

    def loglikelihood(self, requests):
        raise UserError("EngineLM generates only; use tasks with output_type generate_until")

    def loglikelihood_rolling(self, requests):
        return self.loglikelihood(requests)

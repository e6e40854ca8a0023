"""Put a question to any stage's model and watch it reason.

    tune run recipes/ask.py --config configs/tiny/ask.yaml question="1234+5678=?"
    tune run recipes/ask.py --config configs/tiny/ask.yaml model=runs/tiny/sft/model answer=6912 \\
      question="1234+5678=?"

Without a question it reads them from the terminal, one a line, until the input ends. With the right
answer it also says what the verifier makes of the response.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from custom_components.config import (
    Component,
    UserError,
    instantiate,
    option,
    recipe_main,
    required,
)


@dataclass
class AskConfig:
    """Config of recipes/ask.py."""

    model: str = required("Hugging Face folder, or hub id")
    tokenizer: Component = required("chat tokenizer; its path is filled in")
    run_dir: str = option("runs", "folder of the chain, for interpolation")
    question: str = option("", "the problem; empty: read problems from the terminal", verbatim=True)
    answer: str | None = option(None, "the right answer, to verify the response", verbatim=True)
    temperature: float = option(0.6, "0 is greedy")
    top_p: float = option(0.95, "nucleus mass")
    max_new_tokens: int = option(4096, "longest response, tokens")
    seed: int | None = option(None, "of the sampling; another each time by default")
    device: str = option("auto", "auto, cpu or cuda")
    dtype: str = option("auto", "auto (the model's own), float32 or bfloat16")

    def __post_init__(self) -> None:
        """Refuse what the sampling cannot use, or would quietly read as something else."""
        for key, fits, range_ in (
            ("temperature", 0 <= self.temperature < float("inf"), "0 (greedy) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("max_new_tokens", self.max_new_tokens >= 1, "1 or more"),
            ("seed", self.seed is None or 0 <= self.seed < 2**32, "from 0 to 4294967295"),
            ("dtype", self.dtype in ("auto", "float32", "bfloat16"), "auto, float32 or bfloat16"),
        ):
            if not fits:
                raise UserError(f"{key} must be {range_}, not {getattr(self, key)!r}")


@recipe_main
def main(cfg: AskConfig) -> None:
    """Answer questions."""
    from transformers import set_seed

    from custom_components.training.distributed import device_type

    device = device_type(cfg.device)
    tokenizer = instantiate(cfg.tokenizer | {"path": cfg.model}, "tokenizer")
    model = load_model(cfg.model, cfg.dtype).to(device).eval()
    longest = model.config.max_position_embeddings
    if cfg.seed is not None:
        set_seed(cfg.seed)
    for question in questions(cfg.question):
        ids = tokenizer.encode_prompt(question)
        room = min(cfg.max_new_tokens, longest - len(ids))
        if room < 1:
            what = f"the question has {len(ids)} tokens, the model's context {longest}; shorten it"
            if cfg.question:
                raise UserError(what)
            print(f"[{what}]")
            continue
        response, finished = answer(model, tokenizer, ids, room, cfg)
        if not finished:
            print(f"\n[cut off after {room} tokens; raise max_new_tokens]")
        if cfg.answer is not None:
            print(f"[{verdict_of(cfg.answer, response, not finished)}]")


def load_model(name: str, dtype: str) -> Any:
    """The transformers model of a folder or hub id.

    Raises:
        UserError: when there is none, or its files are missing, damaged or of no known kind.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    from custom_components.hub import local_folder

    folder = local_folder(name, "model")
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    except (OSError, ValueError, SafetensorError) as e:
        why = str(e).strip().splitlines()[0]
        raise UserError(
            f"model: {folder} cannot be loaded ({why}); name the model/ of a finished stage"
        ) from e


def questions(first: str) -> Iterator[str]:
    """The one that was given, else those from the terminal."""
    if first:
        yield first
        return
    while True:
        if sys.stdin.isatty():
            print("\nquestion: ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def answer(
    model: Any, tokenizer: Any, ids: list[int], room: int, cfg: AskConfig
) -> tuple[str, bool]:
    """Print a response as it comes. Returns its text, and whether it came to its end."""
    import torch
    from transformers import TextStreamer

    sampling = {"do_sample": False}
    if cfg.temperature > 0:
        sampling = {
            "do_sample": True,
            "temperature": cfg.temperature,
            "top_p": cfg.top_p,
            "top_k": 0,
        }
    prompt = torch.tensor([ids], device=model.device)
    [tokens] = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=room,
        eos_token_id=tokenizer.stop_ids,
        pad_token_id=tokenizer.pad_id,
        streamer=TextStreamer(tokenizer.hf, skip_prompt=True, skip_special_tokens=True),
        **sampling,
    )
    response = tokens[len(ids) :].tolist()
    return tokenizer.decode(response), response[-1] in tokenizer.stop_ids


def verdict_of(gold: str, response: str, truncated: bool) -> str:
    """What the verifier says, in words."""
    from custom_components.verifier import verify

    verdict = verify(gold, response, truncated=truncated)
    read = f"read {verdict.prediction}" if verdict.prediction is not None else "no answer read"
    return f"{verdict.verdict}: {read}, {verdict.reason}"


if __name__ == "__main__":
    main()

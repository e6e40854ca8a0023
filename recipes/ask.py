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


@recipe_main(AskConfig)
def main(cfg: Any) -> None:
    """Answer questions."""
    import torch
    from transformers import AutoModelForCausalLM, set_seed

    from custom_components.models.hub import local_folder

    tokenizer = instantiate(cfg.tokenizer | {"path": cfg.model}, "tokenizer")
    if cfg.dtype not in ("auto", "float32", "bfloat16"):
        raise UserError(f"dtype must be auto, float32 or bfloat16, not {cfg.dtype!r}")
    device = cfg.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(local_folder(cfg.model, "model"), dtype=cfg.dtype)
    model = model.to(device).eval()
    longest = model.config.max_position_embeddings
    if cfg.seed is not None:
        set_seed(cfg.seed)
    for question in questions(cfg.question):
        ids = tokenizer.encode_prompt(question)
        room = min(cfg.max_new_tokens, longest - len(ids))
        if room < 1:
            raise UserError(f"the question has {len(ids)} tokens, the model's context {longest}")
        response, finished = answer(model, tokenizer, ids, room, cfg)
        if not finished:
            print(f"\n[cut off after {room} tokens; raise max_new_tokens]")
        if cfg.answer is not None:
            print(f"[{verdict_of(cfg.answer, response, not finished)}]")


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


def answer(model: Any, tokenizer: Any, ids: list[int], room: int, cfg: Any) -> tuple[str, bool]:
    """Print a response as it comes. Returns its text, and whether it came to its end."""
    import torch
    from transformers import TextStreamer

    sampling = {"do_sample": False}
    if cfg.temperature > 0:
        sampling = {"do_sample": True, "temperature": cfg.temperature, "top_p": cfg.top_p,
                    "top_k": 0}  # fmt: skip
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

"""Put a question to any stage's model and watch it reason.

    tune run recipes/ask.py --config configs/tiny/ask.yaml question="1234+5678=?"
    tune run recipes/ask.py --config configs/tiny/ask.yaml model=runs/tiny/sft/model answer=6912 \\
      question="1234+5678=?"

Without `question` the recipe reads questions from the terminal, one a line, until the input ends.
With `answer`, the right answer, it also verifies the response.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from custom_components.config import (
    Component,
    UserError,
    instantiate,
    option,
    recipe_main,
    required,
)

if TYPE_CHECKING:
    from custom_components.tokenizer.chat import ChatTokenizer


@dataclass
class AskConfig:
    """Configure recipes/ask.py."""

    model: str = required("Hugging Face folder, or hub id")
    tokenizer: Component = required("chat tokenizer; the recipe fills in its path")
    run_dir: str = option("runs", "folder of the chain, for interpolation")
    question: str = option(
        "", "problem to solve; empty: read problems from the terminal", verbatim=True
    )
    answer: str | None = option(None, "right answer, to verify the response", verbatim=True)
    temperature: float = option(0.6, "divisor of the logits; 0 is greedy")
    top_p: float = option(0.95, "probability mass of the nucleus")
    max_new_tokens: int = option(4096, "longest response, tokens", least=1)
    seed: int | None = option(None, "seed of the sampling; another one each time by default")
    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto, cpu or cuda")
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "auto (the model's own), float32 or bfloat16"
    )

    def __post_init__(self) -> None:
        """Check that the sampling can use the numbers, and reads them as they are meant.

        Raises:
            UserError: if a number is out of range.
        """
        for key, valid, range_ in (
            ("temperature", 0 <= self.temperature < float("inf"), "0 (greedy) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("seed", self.seed is None or 0 <= self.seed < 2**32, "from 0 to 4294967295"),
        ):
            if not valid:
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
            advice = (
                f"the question has {len(ids)} tokens, the model's context {longest}; shorten it"
            )
            if cfg.question:
                raise UserError(advice)
            print(f"[{advice}]")
            continue
        response, finished = answer(model, tokenizer, ids, room, cfg)
        if not finished:
            print(f"\n[cut off after {room} tokens; raise max_new_tokens]")
        if cfg.answer is not None:
            print(f"[{verdict_of(cfg.answer, response, not finished)}]")


def load_model(name: str, dtype: str) -> Any:
    """Load the transformers model of a folder or hub id.

    Raises:
        UserError: if there is none, or its files are missing, damaged or of an unknown kind.
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


def questions(given: str) -> Iterator[str]:
    """Yield the given question, or those from the terminal if it is empty."""
    if given:
        yield given
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
    model: Any, tokenizer: "ChatTokenizer", ids: list[int], room: int, cfg: AskConfig
) -> tuple[str, bool]:
    """Print a response as it comes.

    Args:
        model: transformers model.
        tokenizer: chat tokenizer of the model.
        ids: token ids of the prompt.
        room: longest response, tokens.
        cfg: config of the sampling.

    Returns:
        (whole response, whether it is finished and not cut off).
    """
    import torch
    from transformers import TextStreamer

    from custom_components.tokenizer.thought import is_open

    sampling: dict[str, Any] = {"do_sample": False}
    if cfg.temperature > 0:
        sampling = {
            "do_sample": True,
            "temperature": cfg.temperature,
            "top_p": cfg.top_p,
            "top_k": 0,
        }
    prompt = torch.tensor([ids], device=model.device)
    if is_open(tokenizer.opening):
        print(tokenizer.opening, end="", flush=True)
    [tokens] = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=room,
        eos_token_id=tokenizer.stop_ids,
        pad_token_id=tokenizer.pad_id,
        streamer=TextStreamer(cast(Any, tokenizer), skip_prompt=True),
        **sampling,
    )
    response = tokens[len(ids) :].tolist()
    return tokenizer.decode_response(response), response[-1] in tokenizer.stop_ids


def verdict_of(gold: str, response: str, truncated: bool) -> str:
    """Return the verdict on a response in words."""
    from custom_components.verifier import verify

    verdict = verify(gold, response, truncated=truncated)
    read = f"read {verdict.prediction}" if verdict.prediction is not None else "no answer read"
    return f"{verdict.verdict}: {read}, {verdict.reason}"


if __name__ == "__main__":
    main()

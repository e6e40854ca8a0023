"""Check the chat template and the tokenizer."""

from collections.abc import Iterator
from pathlib import Path

from custom_components.config import UserError, instantiate
from custom_components.data.data_config import RolloutConfig
from custom_components.doctor.findings import Finding
from custom_components.doctor.stage import Stage
from custom_components.tokenizer.chat import ChatTokenizer, TemplateError
from custom_components.training.training_config import TrainingConfig
from eval.evaluate_config import EvaluateConfig


def open_tokenizer(stage: Stage) -> ChatTokenizer | None:
    """Open the stage's tokenizer; None if it has none, or it is not on this disk yet.

    Raises:
        UserError: When it cannot be used.
    """
    cfg = stage.cfg
    has_tokenizer = isinstance(cfg, TrainingConfig | RolloutConfig | EvaluateConfig)
    node = (cfg.tokenizer if has_tokenizer else None) or {}
    path = node.get("path")
    return instantiate(node, "tokenizer") if path and Path(path).is_dir() else None


def check_template(stage: Stage) -> Iterator[Finding]:
    """Check that the tokenizer opens, ends turns, and leaves `<think>` to the model."""
    try:
        tokenizer = open_tokenizer(stage)
    except TemplateError as e:
        yield Finding(
            "end_of_turn",
            "error",
            str(e),
            "a model that never sees its turn end runs into the length limit on every problem",
            "end the assistant's turn with the tokenizer's end token in chat_template.jinja, or "
            "give the start model another one (source.chat_template)",
        )
        return
    except UserError as e:
        yield Finding("tokenizer", "error", str(e), "nothing can be encoded without it", "")
        return
    if tokenizer is None:
        return
    if tokenizer.generation_prompt().rstrip().endswith("<think>"):
        yield Finding(
            "prefilled_think",
            "error",
            f"the template of {tokenizer.path} writes <think> before the model's response",
            "training rows begin with <think> themselves, so the model would see it twice; and a "
            "response that never closes it looks like an answer",
            "take <think> out of the template's generation prompt (source.chat_template)",
        )
    if tokenizer.pad_id == tokenizer.end_of_turn_id:
        name = tokenizer.hf.convert_ids_to_tokens(tokenizer.pad_id)
        yield Finding(
            "pad_is_end_of_turn",
            "note",
            f"{name} pads and ends turns in {tokenizer.path}",
            "the end of the turn is trained here, because nothing is padded; collators that mask "
            "padding by its id would not train it",
            "give the tokenizer a pad token of its own before training elsewhere",
        )

"""Check the chat template and the tokenizer."""

from collections.abc import Iterator
from pathlib import Path

from custom_components.config import UserError, instantiate
from custom_components.data.data_config import RolloutConfig
from custom_components.doctor.findings import Finding
from custom_components.doctor.stage import Stage
from custom_components.tokenizer.chat import ChatTokenizer, TemplateError
from custom_components.tokenizer.thought import CLOSE, OPEN, is_empty, is_open, lacks_opening
from custom_components.training.training_config import TrainingConfig
from eval.evaluate_config import EvaluateConfig

MOST = 0.5
"""Share of the rows from which a fault is an error."""


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
    """Check that the tokenizer opens and ends turns, and that a teacher is asked to reason."""
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
    if isinstance(stage.cfg, RolloutConfig) and is_empty(tokenizer.opening):
        if not (stage.cfg.tokenizer or {}).get("chat_template_kwargs"):
            yield Finding(
                "reasoning",
                "warning",
                f"the template of {tokenizer.path} closes the reasoning before the response",
                "the teacher is asked not to reason, so its responses will hold no reasoning",
                thinking(tokenizer, True)
                or f"write a chat_template.jinja without the empty thought into {tokenizer.path}",
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


def thinking(tokenizer: ChatTokenizer, wanted: bool) -> str:
    """Return the key that turns reasoning on or off; empty if the template has no such variable."""
    if "enable_thinking" not in tokenizer.hf.get_chat_template():
        return ""
    return f"tokenizer.chat_template_kwargs={{enable_thinking: {str(wanted).lower()}}}"


def check_reasoning(tokenizer: ChatTokenizer, path: str, responses: list[str]) -> Iterator[Finding]:
    """Check that responses to train on go on where the chat template's prompt ends.

    Args:
        tokenizer: tokenizer of the stage.
        path: split that the responses are from.
        responses: responses to train on.
    """
    opening, total = tokenizer.opening, len(responses)
    template = "another template for the start model (source.chat_template)"
    reasoned = [text for text in responses if OPEN in text or CLOSE in text]
    plain = total - len(reasoned)
    unopened = sum(map(lacks_opening, responses))
    if is_open(opening) and plain:
        yield Finding(
            "reasoning",
            "error" if plain > MOST * total else "warning",
            f"the template of {tokenizer.path} opens <think>, and {plain} of {total} responses of "
            f"{path} have no reasoning",
            "they are left out, because their answers would be trained as part of the reasoning",
            f"rows with their reasoning, or {thinking(tokenizer, False) or template}",
        )
    if is_empty(opening) and reasoned:
        yield Finding(
            "reasoning",
            "warning",
            f"the template of {tokenizer.path} closes the reasoning before the response, and "
            f"{len(reasoned)} of {total} responses of {path} hold reasoning",
            "the model is told not to reason, and trained to reason all the same",
            thinking(tokenizer, True) or template,
        )
    if not is_open(opening) and unopened:
        yield Finding(
            "reasoning",
            "error" if unopened > MOST * total else "warning",
            f"{unopened} of {total} responses of {path} close a <think> that they do not open",
            "the model would learn to reason without <think>, and a reasoning that never closes "
            "looks like an answer",
            "run curate again, which puts it back",
        )

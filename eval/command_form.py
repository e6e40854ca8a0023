"""Tell how lm_eval's own command asks a model, from the model_args that it hands to a task's data.

The recipe does not need this: its engine knows the prompts. The command renders the model's chat
template by itself, and knows nothing of `PromptForm`.
"""

import sys
from pathlib import Path
from typing import Any

from custom_components.config import UserError
from custom_components.tokenizer.chat import ChatTokenizer
from custom_components.tokenizer.prompt_form import trained_form, warn
from custom_components.tokenizer.thought import is_open


def model_folder(metadata: dict[str, Any]) -> Path | None:
    """Return the folder of the model that the command evaluates; None if it is not on this disk."""
    for name in ("tokenizer", "pretrained", "model"):
        if metadata.get(name) and (Path(str(metadata[name])) / "tokenizer_config.json").is_file():
            return Path(str(metadata[name]))
    return None


def instruction_of(metadata: dict[str, Any]) -> str:
    """Return the instruction that a model was trained with; empty if its folder does not say."""
    folder = model_folder(metadata)
    trained = trained_form(folder) if folder else None
    return trained.instruction if trained else ""


def reasoning_open(metadata: dict[str, Any]) -> bool:
    """Return whether the command's prompts end in <think>, as far as the model's folder tells.

    A line on stderr says which variables of the chat template the command lacks.
    """
    folder = model_folder(metadata)
    templated = any(argument.startswith("--apply_chat_template") for argument in sys.argv)
    # With this argument lm_eval takes the reasoning off before the response is scored.
    if folder is None or not templated or metadata.get("think_end_token"):
        return False
    variables = dict(metadata.get("chat_template_args") or {})
    if metadata.get("enable_thinking") is not None:
        variables["enable_thinking"] = metadata["enable_thinking"]
    trained = trained_form(folder)
    if trained and trained.chat_template_kwargs != variables:
        warn(
            f"{folder} was trained with chat_template_kwargs {trained.chat_template_kwargs}; give "
            "them to lm_eval's model, --model_args chat_template_args=..."
        )
    try:
        return is_open(ChatTokenizer(folder, chat_template_kwargs=variables).opening)
    except UserError:  # lm_eval may know how to ask what a ChatTokenizer refuses
        return False

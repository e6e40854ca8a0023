"""Remember how a trained model was asked, in a small file beside its config.json."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from custom_components.config import UserError
from custom_components.io import write_json

FILE = "reasontune.json"
"""Name of the file in a model folder; other tools ignore it."""


@dataclass(frozen=True)
class PromptForm:
    """Hold what is put around a problem.

    Attributes:
        system_prompt: content of a system turn before the problem; empty for no such turn.
        instruction: text after the problem, on a line of its own; empty for none.
        chat_template_kwargs: variables that the chat template is rendered with.
    """

    system_prompt: str = ""
    instruction: str = ""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write the form into a model folder."""
        write_json(folder / FILE, asdict(self))


def trained_form(folder: Path) -> PromptForm | None:
    """Return the form in which the model of a folder was trained; None if the folder does not say.

    Raises:
        UserError: if the folder's file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        form = PromptForm(**{f.name: values[f.name] for f in fields(PromptForm)})
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(
            f"{path} does not say how the model was asked ({type(e).__name__}: {e}); delete it, and "
            "set tokenizer.instruction"
        ) from e
    return form


def form_to_ask(folder: Path, given: Mapping[str, Any]) -> PromptForm:
    """Return the form to ask a model in: what is given, and for the rest what it was trained with.

    A line on stderr names each part that is given and differs from training.

    Args:
        folder: folder of the model.
        given: values by the names of `PromptForm`; None for what is not given.
    """
    trained = trained_form(folder)
    known = {name: value for name, value in given.items() if value is not None}
    for name, value in known.items():
        if trained is not None and value != getattr(trained, name):
            warn(
                f"{folder} was trained with {name} {getattr(trained, name)!r} and is asked with "
                f"{value!r}; leave tokenizer.{name} out to ask as in training"
            )
    return replace(trained or PromptForm(), **known)


@cache
def warn(message: str) -> None:
    """Print a warning on stderr, once in a run."""
    if os.environ.get("RANK", "0") == "0":
        print(f"warning: {message}", file=sys.stderr, flush=True)

"""Encode and decode with any Hugging Face tokenizer that has a chat template."""

import inspect
import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import TemplateError as JinjaError
from transformers import PreTrainedTokenizerFast

from custom_components.config import UserError
from custom_components.hub import local_folder
from custom_components.tokenizer.prompt_form import form_to_ask
from custom_components.tokenizer.thought import (
    CLOSE,
    OPEN,
    opening_of,
    rest_of_response,
    whole_response,
)


class TemplateError(UserError):
    """Signal a chat template with which a model could not learn to stop."""


class TurnsError(UserError, ValueError):
    """Signal turns that the chat template cannot render.

    It is a ValueError, so that a data row with such turns is rejected instead of ending the run.
    """


# Private use characters occur in no template and in no problem.
_SENTINEL = "\ue000{}\ue001"


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """Load a folder's tokenizer.json, or use `AutoTokenizer` if it has none or brings code.

    `AutoTokenizer` gives the same result, but its import adds seconds to every recipe's start.
    """
    if (folder / "tokenizer.json").is_file() and not trust_remote_code:
        return PreTrainedTokenizerFast.from_pretrained(folder)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)


def complete_turns(
    messages: list[dict[str, str]], system_prompt: str | None, instruction: str
) -> list[dict[str, str]]:
    """Add a system prompt before the turns, and an instruction after the problem.

    Args:
        messages: turns with role and content; the last holds the problem.
        system_prompt: content of the system turn; None, or a system turn in `messages`, adds none.
        instruction: text appended to the last turn, after a newline; nothing when empty.
    """
    *earlier, last = messages
    if instruction:
        last = {**last, "content": f"{last['content']}\n{instruction}"}
    if system_prompt and messages[0]["role"] != "system":
        earlier = [{"role": "system", "content": system_prompt}, *earlier]
    return [*earlier, last]


class ChatTokenizer:
    """Encode problems and responses with the model's own chat template.

    Prompt and response are encoded separately and joined, so the tokens in training are exactly
    those that the model reads and produces when it generates.

    A model that a recipe trained remembers how it was asked (`PromptForm`): what is not given here
    is taken from there.

    Args:
        path: Hugging Face folder with tokenizer files and a chat template, or a hub id.
        system_prompt: content of a system turn before the problem; empty for no such turn. By
            default the one that the model was trained with, if there is one.
        instruction: text appended to every problem, after a newline; empty for none. By default the
            one that the model was trained with, if there is one.
        trust_remote_code: run tokenizer code that comes with the folder.
        chat_template_kwargs: variables of the chat template, e.g. {enable_thinking: false}. By
            default those that the model was trained with, if there are any.

    Attributes:
        form: what is put around a problem.

    Raises:
        UserError: if the folder has no tokenizer, or no chat template that renders, or the template
            has no such variable.
        TemplateError: if the template does not end an assistant turn with a special token.
    """

    def __init__(
        self,
        path: str | Path,
        system_prompt: str | None = None,
        instruction: str | None = None,
        trust_remote_code: bool = False,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        folder = local_folder(path, "tokenizer.path")
        if not (folder / "tokenizer_config.json").is_file():
            raise UserError(
                f"tokenizer.path: {folder} holds no tokenizer_config.json; give a Hugging Face "
                "model folder (has the stage before it finished?)"
            )
        self.path = folder
        self.hf = load_tokenizer(folder, trust_remote_code)
        if not self.hf.chat_template:
            raise UserError(f"{folder} has no chat template; add chat_template.jinja to the folder")
        self._check_variables(chat_template_kwargs or {})
        given = {
            "system_prompt": system_prompt,
            "instruction": instruction,
            "chat_template_kwargs": chat_template_kwargs,
        }
        self.form = form_to_ask(folder, given)
        self.special_tokens = {
            i: token.content for i, token in self.hf.added_tokens_decoder.items() if token.special
        }
        self.special_ids = set(self.special_tokens)
        self.thought_ids = {
            name: i for i, name in self.special_tokens.items() if name in (OPEN, CLOSE)
        }
        self.end_of_turn_id = self._find_end_of_turn()
        self.stop_ids = self._find_stop_ids()
        pad = self.hf.pad_token_id
        self.pad_id = pad if pad is not None else self.hf.eos_token_id

    @property
    def system_prompt(self) -> str | None:
        """Return the content of the system turn; None for no such turn."""
        return self.form.system_prompt or None

    @property
    def instruction(self) -> str:
        """Return the text appended to every problem."""
        return self.form.instruction

    def _check_variables(self, variables: dict[str, Any]) -> None:
        reserved = set(inspect.signature(self.hf.apply_chat_template).parameters)
        template = self.hf.get_chat_template()
        for name in variables:
            if name in reserved or not re.search(rf"\b{re.escape(name)}\b", template):
                raise UserError(
                    f"tokenizer.chat_template_kwargs: the chat template of {self.path} has no "
                    f"variable {name!r}"
                )

    def render(self, messages: list[dict[str, str]], generate: bool) -> str:
        """Return turns as the chat template writes them.

        Args:
            messages: turns with role and content.
            generate: whether to add the start of an assistant's turn.

        Raises:
            TurnsError: if the template cannot render the turns.
        """
        try:
            return self.hf.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=generate,
                **self.form.chat_template_kwargs,
            )
        except JinjaError as e:
            roles = ", ".join(str(m.get("role") if isinstance(m, dict) else m) for m in messages)
            raise TurnsError(
                f"{self.path}: the chat template cannot render the turns {roles} "
                f"({str(e).partition(chr(10))[0]}); fix the template or the turns"
            ) from e

    @cached_property
    def opening(self) -> str:
        """Return the thought at the end of a problem's prompt, see `opening_of`."""
        problem = {"role": "user", "content": _SENTINEL.format(0)}
        return opening_of(self.render(self.complete_prompt([problem]), generate=True))

    def _find_end_of_turn(self) -> int:
        mark = _SENTINEL.format(0)
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": mark}]
        after = self.render(turns, generate=False).partition(mark)[2]
        ids = self.hf(after, add_special_tokens=False)["input_ids"]
        if not ids or ids[0] not in self.special_ids:
            raise TemplateError(
                f"{self.path}: the chat template does not end an assistant turn with a special "
                f"token (it writes {after!r}), so the model could not learn to stop; fix the template"
            )
        return ids[0]

    def _find_stop_ids(self) -> list[int]:
        stop = {self.end_of_turn_id}
        if self.hf.eos_token_id is not None:
            stop.add(self.hf.eos_token_id)
        path = self.path / "generation_config.json"
        if path.is_file():
            eos = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
            stop |= set(eos if isinstance(eos, list) else [] if eos is None else [eos])
        return sorted(stop)

    def complete_prompt(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        """Return the turns that the model sees; see `complete_turns`."""
        return complete_turns(messages, self.system_prompt, self.instruction)

    def encode_prompt(self, problem: str) -> list[int]:
        """Return token ids up to and including the start of the assistant's turn."""
        return self.encode_messages(self.complete_prompt([{"role": "user", "content": problem}]))

    def encode_messages(self, messages: list[dict[str, str]]) -> list[int]:
        """Return token ids of `messages` and the start of an assistant turn.

        Special tokens come from the template alone: message text that spells one is encoded as
        ordinary characters.
        """
        return self._encode_turns(messages)[0]

    def _encode_turns(self, messages: list[dict[str, str]]) -> tuple[list[int], str]:
        """Return (what `encode_messages` returns, thought at the end of the prompt)."""
        prompt = self.render(messages, generate=True)
        opening = opening_of(prompt)
        if not any(self._spells_special_token(m["content"]) for m in messages):
            return self.hf(prompt, add_special_tokens=False)["input_ids"], opening
        marked = [{**m, "content": _SENTINEL.format(i)} for i, m in enumerate(messages)]
        ids: list[int] = []
        rest = self.render(marked, generate=True)
        for i, m in enumerate(messages):
            before, _, rest = rest.partition(_SENTINEL.format(i))
            ids += self.hf(before, add_special_tokens=False)["input_ids"]
            ids += self.encode_text(m["content"])
        return ids + self.hf(rest, add_special_tokens=False)["input_ids"], opening

    def _spells_special_token(self, text: str) -> bool:
        return any(name in text for name in self.special_tokens.values())

    def encode_text(self, text: str) -> list[int]:
        """Return token ids of plain text; spelled-out special tokens stay ordinary text."""
        return self.hf(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def encode_response(self, response: str) -> list[int]:
        """Return token ids of what the model writes of a whole response to a problem.

        Raises:
            ValueError: if the response does not go on where the prompt ends.
        """
        return self._encode_generated(rest_of_response(response, self.opening))

    def _encode_generated(self, text: str) -> list[int]:
        """Return token ids of text that a model wrote: `<think>` and `</think>` are its own tokens."""
        if not self.thought_ids:
            return self.encode_text(text)
        ids: list[int] = []
        for part in re.split(f"({OPEN}|{CLOSE})", text):
            if part in self.thought_ids:
                ids.append(self.thought_ids[part])
            elif part:
                ids += self.encode_text(part)
        return ids

    def encode_example(
        self, messages: list[dict[str, str]], finished: bool = True
    ) -> tuple[list[int], int]:
        """Encode a conversation that ends in the assistant's turn as one sequence.

        Args:
            messages: turns with role and content; the last is the assistant's.
            finished: append the end-of-turn token, so that the model learns to stop.

        Returns:
            (token ids, length of the prompt): tokens from that length on are the response.

        Raises:
            ValueError: if the last turn is not the assistant's, or no turn precedes it, or the
                response does not go on where the prompt ends.
        """
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise ValueError("a training example must end in an assistant turn after a user turn")
        prompt, opening = self._encode_turns(self.complete_prompt(messages[:-1]))
        response = rest_of_response(messages[-1]["content"], opening, finished)
        answer = self._encode_generated(response)
        end = [self.end_of_turn_id] if finished else []
        return prompt + answer + end, len(prompt)

    def decode(self, ids: list[int]) -> str:
        """Return the text of generated ids, without special tokens except those of the thought."""
        if not self.thought_ids:
            return self.hf.decode(ids, skip_special_tokens=True)
        hidden = self.special_ids - set(self.thought_ids.values())
        return self.hf.decode([i for i in ids if i not in hidden], skip_special_tokens=False)

    def decode_response(self, ids: list[int]) -> str:
        """Return the whole response to a problem, with the `<think>` that the prompt opened."""
        return whole_response(self.decode(ids), self.opening)

"""Encode and decode with any Hugging Face tokenizer that has a chat template."""

import json
from pathlib import Path
from typing import Any

from jinja2 import TemplateError as JinjaError
from transformers import PreTrainedTokenizerFast

from custom_components.config import UserError
from custom_components.hub import local_folder


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

    Args:
        path: Hugging Face folder with tokenizer files and a chat template, or a hub id.
        system_prompt: content of a system turn before the problem; no such turn when None.
        instruction: text appended to every problem, after a newline; nothing when empty.
        trust_remote_code: run tokenizer code that comes with the folder.

    Raises:
        UserError: if the folder has no tokenizer, or no chat template that renders.
        TemplateError: if the template does not end an assistant turn with a special token.
    """

    def __init__(
        self,
        path: str | Path,
        system_prompt: str | None = None,
        instruction: str = "",
        trust_remote_code: bool = False,
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
        self.system_prompt = system_prompt
        self.instruction = instruction
        self.special_ids = {i for i, token in self.hf.added_tokens_decoder.items() if token.special}
        self.end_of_turn_id = self._find_end_of_turn()
        self.stop_ids = self._find_stop_ids()
        pad = self.hf.pad_token_id
        self.pad_id = pad if pad is not None else self.hf.eos_token_id

    def _render(self, messages: list[dict[str, str]], generate: bool) -> str:
        try:
            return self.hf.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generate
            )
        except JinjaError as e:
            roles = ", ".join(str(m.get("role")) for m in messages)
            raise TurnsError(
                f"{self.path}: the chat template cannot render the turns {roles} "
                f"({str(e).partition(chr(10))[0]}); fix the template or the turns"
            ) from e

    def generation_prompt(self) -> str:
        """Return what the template writes between the user's text and the model's response."""
        mark = _SENTINEL.format(0)
        return self._render([{"role": "user", "content": mark}], generate=True).partition(mark)[2]

    def _find_end_of_turn(self) -> int:
        mark = _SENTINEL.format(0)
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": mark}]
        after = self._render(turns, generate=False).partition(mark)[2]
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
        marked = [{**m, "content": _SENTINEL.format(i)} for i, m in enumerate(messages)]
        rendered = self._render(marked, generate=True)
        plain = self._render(messages, generate=True)
        filled = rendered
        for i, m in enumerate(messages):
            filled = filled.replace(_SENTINEL.format(i), m["content"])
        names = [t.content for t in self.hf.added_tokens_decoder.values() if t.special]
        if filled == plain and not any(n in m["content"] for n in names for m in messages):
            return self.hf(plain, add_special_tokens=False)["input_ids"]
        ids: list[int] = []
        rest = rendered
        for i, m in enumerate(messages):
            before, _, rest = rest.partition(_SENTINEL.format(i))
            ids += self.hf(before, add_special_tokens=False)["input_ids"]
            ids += self.encode_text(m["content"])
        return ids + self.hf(rest, add_special_tokens=False)["input_ids"]

    def encode_text(self, text: str) -> list[int]:
        """Return token ids of plain text; spelled-out special tokens stay ordinary text."""
        return self.hf(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

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
            ValueError: if the last turn is not the assistant's, or no turn precedes it.
        """
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise ValueError("a training example must end in an assistant turn after a user turn")
        prompt = self.encode_messages(self.complete_prompt(messages[:-1]))
        answer = self.encode_text(messages[-1]["content"])
        end = [self.end_of_turn_id] if finished else []
        return prompt + answer + end, len(prompt)

    def decode(self, ids: list[int]) -> str:
        """Return the text of generated ids, without special tokens."""
        return self.hf.decode(ids, skip_special_tokens=True)

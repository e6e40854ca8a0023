"""Build the tiny track's character tokenizer, an ordinary Hugging Face tokenizer."""

import string
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>", "<|system|>")
# These are ordinary text, as in Phi-4-mini-reasoning's vocabulary, but one token each.
WORDS = ("<think>", "</think>", "\\boxed{")
CHARACTERS = "\n " + string.digits + "+-*/=.,:?(){}" + string.ascii_letters
# Turns are written as Phi-4-mini writes them: without newlines between the parts, without BOS.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def character_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer of one token per character or word of `WORDS`, with Phi's chat format."""
    vocab = {token: i for i, token in enumerate((*SPECIAL, *WORDS, *CHARACTERS))}
    # An unknown character becomes a space; it must not vanish.
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=" "))
    pattern = r"<think>|</think>|\\boxed\{|[\s\S]"
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
    )


def save_character_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """Write the tokenizer files into `folder`, and return the tokenizer."""
    tokenizer = character_tokenizer()
    tokenizer.save_pretrained(folder)
    return tokenizer

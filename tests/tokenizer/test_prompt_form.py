import json

import pytest

from custom_components.config import UserError
from custom_components.tokenizer.character import save_character_tokenizer
from custom_components.tokenizer.chat import ChatTokenizer
from custom_components.tokenizer.prompt_form import FILE, PromptForm, warn


@pytest.fixture
def folder(tmp_path):
    warn.cache_clear()
    save_character_tokenizer(tmp_path)
    template = tmp_path / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if no_think %}<think></think>{% endif %}")
    return tmp_path


TRAINED = PromptForm("Be brief.", "Box it.", {"no_think": True})


def test_a_model_is_asked_as_it_was_trained(folder, capsys):
    plain = ChatTokenizer(folder)
    assert (plain.system_prompt, plain.instruction, plain.form) == (None, "", PromptForm())
    TRAINED.save(folder)
    tokenizer = ChatTokenizer(folder)
    assert tokenizer.form == TRAINED
    assert tokenizer.opening == "<think></think>"
    prompt = tokenizer.hf.decode(tokenizer.encode_prompt("1"), skip_special_tokens=True)
    assert prompt == "Be brief.1\nBox it.<think></think>"
    assert ChatTokenizer(folder, *("Be brief.", "Box it.")).form == TRAINED
    assert capsys.readouterr().err == ""


def test_what_is_given_wins_and_is_said_to_differ(folder, capsys):
    TRAINED.save(folder)
    for _ in range(2):  # said once
        tokenizer = ChatTokenizer(folder, "", "Answer.", chat_template_kwargs={})
    assert tokenizer.form == PromptForm("", "Answer.", {})
    first, second, third = capsys.readouterr().err.splitlines()
    assert first.startswith(f"warning: {folder} was trained with system_prompt 'Be brief.' and is")
    assert second.endswith(
        "trained with instruction 'Box it.' and is asked with 'Answer.'; leave "
        "tokenizer.instruction out to ask as in training"
    )
    assert "chat_template_kwargs {'no_think': True} and is asked with {}" in third


def test_other_ranks_say_nothing(folder, capsys, monkeypatch):
    TRAINED.save(folder)
    monkeypatch.setenv("RANK", "1")
    ChatTokenizer(folder, instruction="")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", ["[", "[]", json.dumps({"instruction": "x"})])
def test_a_damaged_file_is_named(folder, text):
    (folder / FILE).write_text(text)
    with pytest.raises(UserError, match=f"{FILE} does not say how the model was asked"):
        ChatTokenizer(folder)

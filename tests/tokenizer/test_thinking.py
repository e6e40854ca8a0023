"""Where the reasoning begins under the chat templates of model families: prompt, row, verdict, ids."""

import pickle

import pytest
import thinking_templates as templates
from tokenizers import Regex, pre_tokenizers

from custom_components.config import UserError
from custom_components.tokenizer.character import character_tokenizer
from custom_components.tokenizer.chat import ChatTokenizer
from custom_components.tokenizer.thought import (
    is_empty,
    is_open,
    lacks_opening,
    opening_of,
    rest_of_response,
    whole_response,
)
from custom_components.verifier import verify

OFF, ON = {"enable_thinking": False}, {"enable_thinking": True}
EMPTY = "<think>\n\n</think>\n\n"
# name, template, variables, system prompt, what the prompt says of the thought
FAMILIES = [
    ("R1", templates.R1, None, None, "<think>\n"),
    ("Qwen3", templates.QWEN3, None, None, ""),
    ("Qwen3 asked not to think", templates.QWEN3, OFF, None, EMPTY),
    ("Qwen3.5", templates.QWEN35, None, None, "<think>\n"),
    ("Qwen3.5 asked not to think", templates.QWEN35, OFF, None, EMPTY),
    ("small Qwen3.5", templates.QWEN35_SMALL, None, None, EMPTY),
    ("small Qwen3.5 asked to think", templates.QWEN35_SMALL, ON, None, "<think>\n"),
    ("Nemotron 3", templates.NEMOTRON3, None, None, "<think>\n"),
    ("Nemotron 3 asked not to think", templates.NEMOTRON3, OFF, None, "<think></think>"),
    ("SmolLM3", templates.SMOLLM3, None, None, ""),
    ("SmolLM3 asked not to think", templates.SMOLLM3, OFF, None, "<think>\n\n</think>\n"),
    ("SmolLM3 told not to", templates.SMOLLM3, None, "/no_think", "<think>\n\n</think>\n"),
    ("Llama 3.2", templates.LLAMA32, None, None, ""),
    ("Gemma 3", templates.GEMMA3, None, "Be brief.", ""),
]
ROW = "<think>\n1+2=3\n</think>\n\n\\boxed{3}"


def save(folder, template, special_thought=False):
    """Write the character tokenizer with another template, `<think>` a special token or not."""
    tokenizer = character_tokenizer()
    thought = ["<think>", "</think>"] if special_thought else []
    if special_thought:  # text that spells one is then ordinary characters
        pattern = Regex(r"\\boxed\{|[\s\S]")
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, "isolated")
    tokenizer.add_special_tokens({"additional_special_tokens": [*templates.SPECIAL, *thought]})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=[False, True], ids=["words", "special tokens"])
def special_thought(request):
    return request.param


@pytest.mark.parametrize(
    ("template", "variables", "system", "opening"),
    [family[1:] for family in FAMILIES],
    ids=[family[0] for family in FAMILIES],
)
def test_prompt_row_verdict_and_training_ids(
    tmp_path, special_thought, template, variables, system, opening
):
    folder = save(tmp_path / "model", template, special_thought)
    tokenizer = ChatTokenizer(folder, system, "Box it.", chat_template_kwargs=variables)
    turns = tokenizer.complete_prompt([{"role": "user", "content": "1+2=?"}])

    # prompt: what transformers renders, with the thought at its end
    rendered = tokenizer.hf.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True, **(variables or {})
    )
    assert rendered.endswith(opening) and "1+2=?\nBox it." in rendered
    assert tokenizer.opening == opening
    assert is_open(opening) == opening.endswith("<think>\n")
    prompt = tokenizer.encode_prompt("1+2=?")
    shown = tokenizer.hf.decode(prompt, skip_special_tokens=False)
    assert shown == rendered.replace("_think", " think")  # the tokenizer has no underscore

    # row: what the model writes, whole
    written = ROW.removeprefix("<think>\n") if is_open(opening) else ROW
    ids = tokenizer.encode_response(ROW)
    assert tokenizer.decode(ids) == written
    assert tokenizer.decode_response(ids) == ROW
    thought = tokenizer.hf.convert_tokens_to_ids("<think>")
    assert (thought in ids) != is_open(opening)

    # verdict: an unfinished thought is no answer, however it was opened
    assert verify("3", tokenizer.decode_response(ids))
    cut = tokenizer.encode_response("<think>\nSo \\boxed{3}? Wait, ")
    verdict = verify("3", tokenizer.decode_response(cut))
    assert (verdict.verdict, verdict.reason) == ("incorrect", "reasoning_open")
    assert verify("3", tokenizer.decode_response(cut), truncated=True).reason == "truncated"
    plain = tokenizer.decode_response(tokenizer.encode_text("\\boxed{3}"))
    assert bool(verify("3", plain)) != is_open(opening)

    # training: the prompt as it is asked, then the ids that the model is to write
    messages = [{"role": "user", "content": "1+2=?"}, {"role": "assistant", "content": ROW}]
    example, length = tokenizer.encode_example(messages)
    assert example[:length] == prompt
    assert example[length:] == [*ids, tokenizer.end_of_turn_id]
    shown = tokenizer.hf.decode(example, skip_special_tokens=False)
    assert shown.count("<think>") == (2 if is_empty(opening) else 1)
    answer = messages[:1] + [{"role": "assistant", "content": "\\boxed{3}"}]
    if is_open(opening):
        with pytest.raises(ValueError, match="opens <think>, and the response has no reasoning"):
            tokenizer.encode_example(answer)
        tokenizer.encode_example(answer, finished=False)
    else:
        assert tokenizer.encode_example(answer)[0][:length] == prompt


@pytest.mark.parametrize(
    ("text", "opening", "whole"),
    [
        ("a</think>b", "<think>\n", "<think>\na</think>b"),
        ("a", "<think>", "<think>a"),
        ("<think>a</think>b", "<think>\n", "<think>a</think>b"),  # opened twice
        ("\n<think>a", "<think>\n", "\n<think>a"),
        ("a <think> b", "<think>\n", "<think>\na <think> b"),  # only talks about it
        ("a</think>b", "", "<think>\na</think>b"),
        ("a", "", "a"),
        ("a", EMPTY, "a"),
        ("<think>a</think>b</think>", "", "<think>a</think>b</think>"),
    ],
)
def test_a_response_gets_back_what_its_prompt_opened(text, opening, whole):
    assert whole_response(text, opening) == whole
    assert not lacks_opening(whole)


@pytest.mark.parametrize(
    ("response", "opening", "rest"),
    [
        ("<think>\na</think>b", "<think>\n", "a</think>b"),
        ("<think>a</think>b", "<think>\n", "a</think>b"),
        ("<think>\na</think>b", "<think>", "\na</think>b"),
        ("\n<think>\n\na</think>b", "<think>\n", "\na</think>b"),
        ("a</think>b", "<think>\n", "a</think>b"),
        ("<think>a</think>b", "", "<think>a</think>b"),
        ("<think>a</think>b", EMPTY, "<think>a</think>b"),
    ],
)
def test_the_model_writes_what_the_prompt_did_not(response, opening, rest):
    assert rest_of_response(response, opening) == rest


def test_only_the_end_of_a_prompt_opens_a_thought():
    assert opening_of("Use <think> tags.<|assistant|>") == ""
    assert opening_of("<think>a</think>") == ""
    assert opening_of("x<think> ") == "<think> "


def test_a_problem_that_spells_the_tags_opens_nothing(tmp_path):
    tokenizer = ChatTokenizer(save(tmp_path, templates.QWEN3, special_thought=True))
    thought = set(tokenizer.thought_ids.values())
    assert thought and not thought & set(tokenizer.encode_prompt("What is <think>?</think>"))
    ids = tokenizer.encode_response("<think>a<|im_end|></think>")
    assert [i for i in ids if i in tokenizer.special_ids] == [ids[0], ids[-1]]


def test_other_special_tokens_are_no_text(tmp_path):
    tokenizer = ChatTokenizer(save(tmp_path, templates.QWEN3, special_thought=True))
    ids = [*tokenizer.encode_response(ROW), tokenizer.end_of_turn_id]
    assert tokenizer.decode(ids) == ROW


def test_turns_with_a_system_turn_of_their_own_decide_for_themselves(tmp_path):
    tokenizer = ChatTokenizer(save(tmp_path, templates.SMOLLM3))
    turns = [
        {"role": "system", "content": "/no_think"},
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "1"},
    ]
    shown = tokenizer.hf.decode(tokenizer.encode_example(turns)[0])
    assert shown.endswith("<think>\n\n</think>\n1<|im_end|>")


def test_variables_that_the_template_lacks_are_refused(tmp_path):
    save(tmp_path, templates.QWEN3)
    for name in ("enable_thinkin", "tokenize"):
        with pytest.raises(UserError, match=f"has no variable '{name}'"):
            ChatTokenizer(tmp_path, chat_template_kwargs={name: False})


def test_a_tokenizer_goes_to_other_processes(tmp_path):
    tokenizer = ChatTokenizer(save(tmp_path, templates.QWEN35), chat_template_kwargs=OFF)
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.opening == EMPTY and again.encode_prompt("1") == tokenizer.encode_prompt("1")

"""Test questions to a model by the real `tune run`."""

import io
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, recipe

from custom_components.config import UserError, load
from custom_components.models.start import random_tiny
from custom_components.tokenizer.chat import ChatTokenizer
from recipes import ask


def test_it_answers_and_says_what_the_verifier_makes_of_it(coin):
    model = coin[0].partition("=")[2]
    said = recipe("ask", f"model={model}", "question=3+1=?", "answer=4", "temperature=0").stdout
    answer = said[said.index("\\boxed{") + 7]
    assert answer in "34"
    verdict = "correct: read 4" if answer == "4" else "incorrect: read 3"
    assert f"[{verdict}" in said


def test_it_reads_questions_until_the_input_ends(coin):
    model = coin[0].partition("=")[2]
    said = recipe("ask", f"model={model}", "seed=3", input="1+1=?\n\n2+1=?\n").stdout
    assert said.count("\\boxed{") == 2


def test_a_response_that_is_cut_off_is_said_to_be(coin):
    model = coin[0].partition("=")[2]
    said = recipe("ask", f"model={model}", "question=3+1=?", "answer=4", "max_new_tokens=2").stdout
    assert "[cut off after 2 tokens; raise max_new_tokens]" in said and "[incorrect" in said


def test_a_mistake_is_one_line(coin):
    done = recipe("ask", "model=runs/nowhere", "question=x", check=False)
    assert done.returncode == 2 and "runs/nowhere" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Return a function that puts a question to an untrained model, in this process."""
    random_tiny(tmp_path / "model")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))

    def put(*overrides):
        given = [f"model={tmp_path / 'model'}", "device=cpu", "max_new_tokens=2", *overrides]
        ask.main.run(load(ask.AskConfig, ROOT / "configs/tiny/ask.yaml", given))

    return put


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("device=gpu", "device must be auto, cpu or cuda, not 'gpu'"),
        ("device=cuda", "device=cuda, but torch sees no CUDA device"),
        ("dtype=fp32", "dtype must be auto, float32 or bfloat16"),
        ("max_new_tokens=0", "max_new_tokens must be at least 1, not 0"),
        ("temperature=-1", "temperature must be 0 (greedy) or more, not -1.0"),
        ("temperature=nan", "temperature must be"),
        ("top_p=0", "top_p must be above 0 and at most 1"),
        ("top_p=1.5", "top_p must be above 0 and at most 1"),
        ("seed=-1", "seed must be"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(put, monkeypatch, override, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError) as e:
        put("question=1+1=?", override)
    assert message in str(e.value)


def test_weights_that_are_missing_or_damaged_are_named(put, tmp_path):
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(b"x" * 10)
    with pytest.raises(UserError, match=f"model: {tmp_path}/model cannot be loaded"):
        put("question=1+1=?")
    weights.unlink()
    with pytest.raises(UserError, match=f"model: {tmp_path}/model cannot be loaded"):
        put("question=1+1=?")


def test_a_question_beyond_the_context_does_not_end_the_session(put, monkeypatch, capsys):
    long = "1+" * 1000 + "1=?"
    with pytest.raises(UserError, match="the model's context 1024; shorten it"):
        put(f"question={long}")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{long}\n1+1=?\n"))
    put()
    said = capsys.readouterr().out
    assert said.index("the model's context 1024; shorten it]") < said.index("[cut off after 2")


class Speaker:
    """A model that always writes the same ids."""

    device, config = "cpu", SimpleNamespace(max_position_embeddings=1024)

    def __init__(self, ids):
        self.ids = ids

    def to(self, _):
        return self

    def eval(self):
        return self

    def generate(self, prompt, streamer, **_):
        streamer.put(prompt)
        for i in self.ids:
            streamer.put(torch.tensor([i]))
        streamer.end()
        return torch.cat([prompt, torch.tensor([self.ids])], 1)


def test_a_reasoning_that_the_prompt_opened_is_shown_and_judged_open(
    put, tmp_path, monkeypatch, capsys
):
    template = tmp_path / "model" / "chat_template.jinja"
    template.write_text(
        template.read_text() + "{% if add_generation_prompt %}{{ '<think>\n' }}{% endif %}"
    )
    tokenizer = ChatTokenizer(tmp_path / "model")
    for text, verdict in (
        ("it is \\boxed{2}?", "incorrect: no answer read, reasoning_open"),
        ("it is</think>\\boxed{2}", "correct: read 2, same_text"),
    ):
        ids = [*tokenizer.encode_text(text), tokenizer.end_of_turn_id]
        monkeypatch.setattr(ask, "load_model", lambda *_, ids=ids: Speaker(ids))
        put("question=1+1=?", "answer=2")
        assert capsys.readouterr().out == f"<think>\n{text}\n[{verdict}]\n"

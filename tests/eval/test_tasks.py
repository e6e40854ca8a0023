import dataclasses
import json

import jinja2
import pytest
from lm_eval.tasks._yaml_loader import load_yaml

from custom_components.config import UserError
from custom_components.tokenizer.character import save_character_tokenizer
from custom_components.tokenizer.chat import ChatTokenizer
from custom_components.tokenizer.prompt_form import PromptForm
from eval.evaluate_config import EvaluateConfig
from eval.evaluation_tasks import load_tasks, warn_of_other_instructions
from eval.scoring import score
from eval.sets import SETS, evaluation_problems
from eval.tasks import functions

GPQA = {
    "Question": "Which planet is largest?",
    "Correct Answer": "Jupiter ",
    "Incorrect Answer 1": "Mars",
    "Incorrect Answer 2": "Venus",
    "Incorrect Answer 3": "Earth",
    "High-level domain": "Physics",
}


def test_gpqa_rows_are_choices_in_a_fixed_order():
    rows = [functions.gpqa_row(GPQA | {"Question": f"Q{i}"}, i) for i in range(40)]
    assert rows == [functions.gpqa_row(GPQA | {"Question": f"Q{i}"}, i) for i in range(40)]
    assert {r["answer"] for r in rows} == set("ABCD")  # every letter is right for some question
    for row in rows:
        assert f"{row['answer']}) Jupiter" in row["problem"].splitlines()
        assert len(row["problem"].splitlines()) == 6


def test_choices_are_scored_as_letters():
    doc = functions.gpqa_row(GPQA, 0)
    wrong = next(x for x in "ABCD" if x != doc["answer"])
    for text, accuracy in (
        (f"<think>x</think>\\boxed{{{doc['answer']}}}", 1),
        (f"<think>x</think>\\boxed{{({doc['answer']})}}", 1),
        (f"<think>x</think>\\boxed{{{wrong}}}", 0),
        ("<think>x</think>\\boxed{A or B}", 0),
    ):
        assert score(doc, [text])["accuracy"] == accuracy


def test_gpqa_from_a_local_copy(tmp_path, monkeypatch):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "gpqa_diamond.jsonl").write_text(json.dumps(GPQA) + "\n")
    monkeypatch.setenv("REASONTUNE_DATA", str(tmp_path))
    [doc] = functions.gpqa_diamond()["test"]
    assert doc["choices"] == "ABCD" and doc["difficulty"] == "Physics"


CONTESTS = {
    "aime26": {"problem_idx": 1, "problem": "1+1-2=?", "answer": 0},
    "hmmt_feb25": {"problem_idx": 1, "problem": "What is $1/2$?", "answer": "\\frac{1}{2}"},
    "hmmt_nov25": {"problem_idx": 1, "problem": "What is $1/3$?", "answer": "\\frac{1}{3}"},
    "hmmt_feb26": {"problem_idx": 1, "problem": "What is $1/4$?", "answer": "\\frac{1}{4}"},
    "amc23": {"id": 0, "question": "1+1=?", "answer": "2.0"},
    "minerva": {"question": "How far?", "answer": "1.5e3"},
}


@pytest.mark.parametrize("name", CONTESTS)
def test_contests_from_a_local_copy(tmp_path, monkeypatch, name):
    (tmp_path / "eval").mkdir()
    copy = tmp_path / "eval" / f"{name}.jsonl"
    copy.write_text(json.dumps(CONTESTS[name]) + "\n")
    monkeypatch.setenv("REASONTUNE_DATA", str(tmp_path))
    [row] = getattr(functions, name)()["test"]
    assert row["answer"] == str(CONTESTS[name]["answer"]) and row["id"] == f"{name}-0"
    assert score(row, [f"\\boxed{{{row['answer']}}}"])["accuracy"] == 1
    [(_, text)] = evaluation_problems([name])  # decontamination reads the same problems
    assert text == row["problem"]
    copy.write_text('{"prompt": "1+1=?"}\n')
    with pytest.raises(UserError, match=f"{name}.jsonl, line 1: no column problem or question"):
        getattr(functions, name)()


def test_olympiadbench_has_a_context_and_several_answers(tmp_path, monkeypatch):
    (tmp_path / "eval").mkdir()
    row = {
        "id": 7,
        "question": "Solve $x^2=4$.",
        "context": "Let $x$ be real.",
        "final_answer": ["2", "-2"],
        "subfield": "Algebra",
        "unit": None,
    }
    (tmp_path / "eval" / "olympiadbench.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setenv("REASONTUNE_DATA", str(tmp_path))
    [doc] = functions.olympiadbench()["test"]
    assert doc["problem"] == "Let $x$ be real.\n\nSolve $x^2=4$."
    assert (doc["id"], doc["difficulty"]) == ("olympiadbench-7", "Algebra")
    assert score(doc, ["\\boxed{-2, 2}"])["accuracy"] == 1
    assert score(doc, ["\\boxed{2}"])["accuracy"] == 0


def test_the_tasks_of_2026_follow_the_papers_protocol():
    cfg = EvaluateConfig(output_dir="out", models={}, engine={}, tasks=["reasoning_2026"])
    _, tasks = load_tasks(cfg)
    _, [aime25] = load_tasks(dataclasses.replace(cfg, tasks=["reasoning_aime25"]))
    assert len(tasks) == 7
    for task in tasks:
        assert task["task"].removeprefix("reasoning_") in SETS
        for key in ("generation_kwargs", "repeats", "filter_list", "doc_to_text"):
            assert task[key] == aime25[key]


@pytest.mark.parametrize(
    ("name", "count"), [("aime24", 30), ("aime25", 30), ("math500", 500), ("gsm8k_test", 1319)]
)
def test_real_sets_are_whole_and_their_golds_readable(data_dir, monkeypatch, name, count):
    monkeypatch.setenv("REASONTUNE_DATA", str(data_dir))
    rows = getattr(functions, name)()["test"]
    assert len(rows) == count and len(set(rows["id"])) == count
    for doc in rows.select(range(min(30, count))):
        assert score(doc, [f"<think>x</think>\\boxed{{{doc['answer']}}}"])["accuracy"] == 1


def test_the_tiny_tasks_problems_are_the_same_every_time():
    first, again = (functions.tiny_addition()["test"] for _ in range(2))
    assert first["problem"] == again["problem"]
    assert len(first) == 600


def test_the_gated_set_says_how_to_get_access(monkeypatch):
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    def refuse(path, *_, **__):
        raise DatasetNotFoundError(f"Dataset '{path}' is a gated dataset on the Hub.")

    monkeypatch.delenv("REASONTUNE_DATA", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match="huggingface.co/datasets/Idavidrein/gpqa.*hf auth login"):
        functions.gpqa_diamond()


def test_problems_of_ones_own(tmp_path):
    path = tmp_path / "test.jsonl"
    rows = [
        {"question": "1+1=?", "result": 2, "digits": "1 digit"},
        {"question": "2+2=?", "result": 4},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"problem": "question", "answer": "result", "difficulty": "digits"}
    first, second = functions.own(str(path), **columns, version=1)["test"]
    assert (first["problem"], first["answer"], first["difficulty"]) == ("1+1=?", "2", "1 digit")
    assert second["difficulty"] is None and first["id"] != second["id"]
    with pytest.raises(UserError, match="line 1: column 'problem' is missing"):
        functions.own(str(path))
    with pytest.raises(UserError, match="reasoning_own: name its problems"):
        functions.own()


def test_ones_own_problems_are_asked_with_the_instruction(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text('{"problem": "1+1=?", "answer": "2"}\n')
    node = {"_component_": "custom_components.data.problems.table", "path": str(path)}
    cfg = EvaluateConfig(
        output_dir="out", models={}, tasks=["reasoning_own"], engine={}, problems=node
    )
    _, [task] = load_tasks(cfg, "Box it: \\boxed{}.")
    [row] = task["custom_dataset"]()["test"]
    assert row["problem"] == "1+1=?"
    asked = jinja2.Template(task["doc_to_text"]).render(row)
    assert asked == "1+1=?\nBox it: \\boxed{}."


OPENS = (
    "{% if add_generation_prompt %}{{ '<think></think>' if no_think else '<think>' }}{% endif %}"
)


def test_lm_evals_own_command_asks_as_the_model_was_trained(tmp_path, monkeypatch, capsys):
    """What its model_args, which it hands to a task's data, say of the model's folder."""
    problems = tmp_path / "test.jsonl"
    problems.write_text('{"problem": "1+1=?", "answer": "2"}\n')
    model = tmp_path / "model"
    save_character_tokenizer(model)
    template = model / "chat_template.jinja"
    template.write_text(template.read_text() + OPENS)
    metadata = {"version": 1, "pretrained": str(model), "dtype": "float32"}

    def doc(**more):
        [row] = functions.own(str(problems), **metadata, **more)["test"]
        text = load_yaml(functions.__file__.replace("functions.py", "reasoning_own.yaml"))
        return row, jinja2.Template(text["doc_to_text"]).render(row)

    assert doc() == (doc()[0], "1+1=?") and not doc()[0]["reasoning_open"]
    PromptForm(instruction="Box it.", chat_template_kwargs={"no_think": True}).save(model)
    monkeypatch.setattr("sys.argv", ["lm_eval", "--apply_chat_template"])
    row, asked = doc()
    assert asked == "1+1=?\nBox it." and row["reasoning_open"]
    assert "give them to lm_eval's model" in capsys.readouterr().err
    text = "So \\boxed{2}? Wait,"
    assert score(row, [text])["accuracy"] == 0 and score(row, ["a</think>\\boxed{2}"])["accuracy"]
    assert doc(instruction="")[1] == "1+1=?"
    assert not doc(chat_template_args={"no_think": True})[0]["reasoning_open"]
    assert not doc(think_end_token="</think>")[0]["reasoning_open"]
    [row] = functions.own(str(problems), pretrained="someone/model")["test"]
    assert not row["reasoning_open"] and score(row, [text])["accuracy"] == 1


def test_a_task_that_asks_otherwise_is_named(tmp_path, capsys):
    save_character_tokenizer(tmp_path)
    box = "Please reason step by step, and put your final answer within \\boxed{}."
    cfg = EvaluateConfig(
        output_dir="out",
        models={},
        engine={},
        tasks=["reasoning_tiny_addition", "reasoning_aime24"],
    )
    _, tasks = load_tasks(cfg)
    warn_of_other_instructions(ChatTokenizer(tmp_path), tasks)
    assert capsys.readouterr().err == ""
    PromptForm(instruction=box).save(tmp_path)
    warn_of_other_instructions(ChatTokenizer(tmp_path), tasks)
    [line] = capsys.readouterr().err.splitlines()
    assert "and reasoning_tiny_addition asks with ''" in line

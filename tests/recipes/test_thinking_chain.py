"""A chain whose template opens `<think>`: rows carry it, and an unclosed reasoning is incorrect."""

import importlib
import json

import datasets
import pytest
from conftest import ROOT, manifest, metrics

from custom_components.config import load, schema_of
from custom_components.data.column_addition import PROBLEM
from custom_components.data.rows import read_rows
from custom_components.doctor.forecast import forecast
from custom_components.tokenizer.chat import ChatTokenizer
from custom_components.tokenizer.prompt_form import PromptForm, trained_form

INSTRUCTION = "Add them."
POLICY = "engine._component_=thinking_engines.Policy"
RL = ["batch_size=4", "group_size=4", "max_steps=2", "problems.counts={2: 20}", POLICY]
STAGES = {
    "start": [],
    "rollout": [
        "problems.counts={2: 60}",
        "engine={_component_: thinking_engines.Teacher}",
        "samples_per_problem=2",
        "oversample={max_samples: 4, workers: 1}",
    ],
    "curate": ["splits.sft_problems=10", "verifier.workers=1"],
    "midtrain": ["max_steps=2", "batch_size=2", f"tokenizer.instruction={INSTRUCTION}"],
    "sft": ["max_steps=2", "batch_size=4"],
    "dpo": ["max_steps=2", "batch_size=4"],
    "grpo": [*RL, "selection.rounds=0"],
    "ppo": [*RL, "minibatches=1"],
}


def config_of(stage, run_dir, *overrides):
    return load(schema_of(stage), f"configs/tiny/{stage}.yaml", [f"run_dir={run_dir}", *overrides])


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """All stages, in this process."""
    folder = tmp_path_factory.mktemp("thinking")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for stage, overrides in STAGES.items():
            recipe = importlib.import_module(f"recipes.{stage}")
            recipe.main.run(config_of(stage, folder, *overrides))
            if stage == "start":
                template = folder / "start" / "model" / "chat_template.jinja"
                end = "{% if add_generation_prompt %}{{ '<think>\n' }}{% endif %}"
                template.write_text(template.read_text() + end)
    return folder


def test_rows_carry_the_thought_and_an_unclosed_one_solves_nothing(run_dir):
    rows = list(read_rows(run_dir / "rollout" / "rollouts"))
    assert all(row["response"].startswith("<think>\nit is ") for row in rows)
    unsolved = [row for row in rows if int(PROBLEM.search(row["problem"])[1]) % 10 == 0]
    counts = manifest(run_dir / "rollout")["counts"]
    assert counts["oversampled"] == len({row["id"] for row in unsolved}) > 0
    assert len(unsolved) == 4 * counts["oversampled"] and counts["solved_by_oversampling"] == 0


def test_curation_takes_closed_reasoning_only(run_dir):
    for row in read_rows(run_dir / "curate" / "verified"):
        closed = "</think>" in row["response"]
        expected = ("correct", "same_text") if closed else ("incorrect", "reasoning_open")
        assert (row["verdict"], row["reason"]) == expected
    for split in ("midtrain", "sft"):
        for row in read_rows(run_dir / "curate" / f"{split}.parquet"):
            response = row["messages"][1]["content"]
            assert response.startswith("<think>\n") and "</think>" in response


@pytest.mark.parametrize(
    ("stage", "table"), [("midtrain", "packs"), ("sft", "examples"), ("dpo", "examples")]
)
def test_training_text_opens_the_thought_once(run_dir, stage, table):
    tokenizer = ChatTokenizer(run_dir / "start" / "model")
    path = run_dir / stage / table / "rows.arrow"
    for row in datasets.Dataset.from_file(str(path)):
        start = 0
        for length in row["lengths"]:
            ids, labels = (row[k][start : start + length] for k in ("input_ids", "labels"))
            start += length
            shown = tokenizer.decode(ids)
            assert shown.count(f"=?\n{INSTRUCTION}<think>\nit is ") == 1
            assert shown.count("<think>") == 1
            scored = tokenizer.decode([x for x in labels if x >= 0])
            assert scored.startswith("it is ")


@pytest.mark.parametrize("stage", ["grpo", "ppo"])
def test_rl_rewards_closed_reasoning_only(run_dir, stage):
    """Half of the responses to the problems that are solved at all; all of them have the box."""
    rows = metrics(run_dir / stage)
    assert all(0.25 <= row["accuracy"] <= 0.5 for row in rows) and len(rows) == 2
    for sample in metrics(run_dir / stage, "samples.jsonl"):
        assert sample["response"].startswith("<think>\nit is ")
        assert (sample["verdict"] == "correct") == ("</think>" in sample["response"])


def test_the_forecast_tells_closed_reasoning_apart(run_dir, monkeypatch):
    monkeypatch.chdir(ROOT)
    cfg = config_of("grpo", run_dir, *RL)
    findings = {finding.name: finding.what for finding in forecast(cfg, 1, 5)}
    assert "0 are all right" in findings["zero_variance"]


def test_every_model_remembers_the_instruction_of_the_first(run_dir):
    assert trained_form(run_dir / "start" / "model") is None
    for stage in ("midtrain", "sft", "dpo", "grpo", "ppo"):
        assert trained_form(run_dir / stage / "model") == PromptForm("", INSTRUCTION, {})


def test_evaluation_asks_as_in_training_and_judges_alike(run_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    problems = [{"problem": f"{a}+7=?", "answer": str(a + 7)} for a in (11, 12)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(p) + "\n" for p in problems))
    recipe = importlib.import_module("recipes.evaluate")
    overrides = [
        "only=[grpo]",
        "tasks=[reasoning_own]",
        "problems._component_=custom_components.data.problems.table",
        f"problems.path={tmp_path}/own.jsonl",
        "repeats=4",
        POLICY,
        f"output_dir={tmp_path}/eval",
    ]
    recipe.main.run(config_of("evaluate", run_dir, *overrides))
    result = json.loads((tmp_path / "eval" / "grpo.json").read_text())
    assert result["provenance"]["prompt_form"]["instruction"] == INSTRUCTION
    assert result["provenance"]["tasks"]["reasoning_own"]["prompt"].endswith(
        f"{INSTRUCTION}{{% endraw %}}"
    )
    [row, _] = metrics(tmp_path / "eval", "grpo.samples.jsonl")
    for sample, text in zip(row["samples"], row["responses"], strict=True):
        assert sample["reasoning_open"] and text.startswith("it is ")
        assert (sample["verdict"] == "correct") == ("</think>" in text)

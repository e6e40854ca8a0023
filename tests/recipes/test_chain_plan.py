"""Plan chains without running them, and refuse chains whose stages do not fit together."""

import dataclasses
import json
from pathlib import Path

import pytest
from conftest import ROOT

from custom_components.chain import plan as chain
from custom_components.chain.chain_config import ChainConfig
from custom_components.config import UserError, load
from custom_components.models.start import StartConfig
from custom_components.runs.manifest import read_manifest, what_changed
from custom_components.runs.run_folder import RunFolder

STAGES = """
  - {name: start, config: configs/tiny/start.yaml}
  - {name: sft, config: configs/tiny/sft.yaml, evaluate: true, overrides: ["data=${run_dir}/sft.jsonl",
     "checkpointer.checkpoint_dir=${run_dir}/start/model", "tokenizer.path=${run_dir}/start/model"]}
  - {name: dpo, config: configs/tiny/dpo.yaml, overrides: ["data=${run_dir}/pairs.jsonl"]}
"""


def chain_of(folder, stages=STAGES, **more):
    """Write a chain; return its config and its steps."""
    lines = {
        "run_dir": folder / "run",
        "evaluation": "configs/tiny/evaluate.yaml",
        "task": "reasoning_tiny_addition",
    } | more
    text = "".join(f"{key}: {value}\n" for key, value in lines.items())
    (folder / "chain.yaml").write_text(f"{text}stages:{stages}")
    cfg = load(ChainConfig, folder / "chain.yaml", [])
    return cfg, chain.chosen_steps(cfg)


@pytest.fixture
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("old", "new", "more", "words"),
    [
        (
            "",
            "",
            {"task": "reasoning_tiny_additio"},
            "does not evaluate 'reasoning_tiny_additio'; did you mean",
        ),
        ("", "", {"compare": "[[sft]]"}, "is not a pair of stages"),
        ("", "", {"compare": "[[sft, sfd]]"}, "no evaluated stage 'sfd'; did you mean 'sft'"),
        ("name: dpo", "name: sft", {}, "two of the name 'sft'"),
        ("name: sft", "name: sft0.5", {}, "letters, digits, _ and - only"),
        (
            "name: dpo",
            "recipe: recipes/dpo.py, name: dpo2",
            {},
            r"output_dir is .*run/dpo, .* in .*run/dpo2; add output_dir",
        ),
        ("name: dpo", "nnodes: 0, name: dpo", {}, "stages.2.nnodes must be at least 1, not 0"),
        (
            '["data=${run_dir}/pairs.jsonl"]',
            "[{data: pairs.jsonl}]",
            {},
            "reads the override .* of dpo as a mapping; put it in quotes",
        ),
        ("name: dpo", "recipe: tests/conftest.py, name: dpo", {}, "is not in the folder recipes"),
        ("name: dpo", "recipe: recipes/d.py, name: dpo", {}, "no recipe recipes/d.py"),
    ],
)
def test_a_chain_that_does_not_fit_together(tmp_path, in_root, old, new, more, words):
    with pytest.raises(UserError, match=words):
        chain.check_chain(*chain_of(tmp_path, STAGES.replace(old, new), **more))


@pytest.mark.parametrize(
    "config",
    sorted(
        p.relative_to(ROOT)
        for p in (ROOT / "configs").rglob("*.yaml")
        if "\nevaluation: configs" in p.read_text()
    ),
    ids=str,
)
def test_the_chains_that_come_with_it_fit_together(in_root, config):
    cfg = load(ChainConfig, config, [])
    chain.check_chain(cfg, chain.chosen_steps(cfg))


def make_run(step, status="complete"):
    """Make the inputs of a step, and its run folder as its recipe would leave it."""
    for path in map(Path, step.cfg.inputs().values()):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text("data")
    run = RunFolder(step.recipe_name, step.cfg)
    (run.path / "model").mkdir(exist_ok=True)
    (run.path / "model" / "weights").write_text(step.name)
    if status == "complete":
        run.finish([run.path / "model"])


def changed(step, *overrides):
    """Return a step with more overrides."""
    return dataclasses.replace(step, overrides=(*step.overrides, *overrides))


def test_steps_after_a_rerun_are_rerun_also_if_they_were_cut_off(tmp_path, in_root):
    cfg, steps = chain_of(tmp_path)
    begin, sft, evaluation, dpo = steps
    make_run(begin)
    make_run(sft)
    make_run(dpo, "running")
    reasons = [action.reason for action in chain.plan(steps)]
    assert reasons == ["skip: complete", "skip: complete", "run", "continue"]
    actions = chain.plan([changed(begin, "seed=7"), *steps[1:]])
    assert [action.reason for action in actions] == [
        "run again: changed seed, source.seed",
        "run again: start will run",
        "run",
        "run again: sft will run",
    ]


def test_a_stage_that_was_cut_off_continues_with_changed_code_and_says_so(
    tmp_path, in_root, monkeypatch
):
    _, steps = chain_of(tmp_path)
    make_run(steps[0], "running")
    assert chain.state(steps[0]) == ("continue", "continue")
    monkeypatch.setattr(chain, "code_hash", lambda recipe: "other")
    assert chain.state(steps[0]) == ("continue", "continue: the code changed since")


def test_one_folder_however_it_is_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spelled = ["runs/tiny", "runs/tiny/", "./runs/tiny", f"{tmp_path}/runs/tiny"]
    manifests = [
        (
            {
                "recipe": "sft",
                "config": {"run_dir": d, "data": f"{d}/curate/sft.parquet"},
                "inputs": {f"{d}/x": "1"},
            }
        )
        for d in spelled
    ]
    for other in manifests:
        assert what_changed(manifests[0], "sft", other["config"], other["inputs"]) == []
    assert what_changed(
        manifests[0], "sft", {"run_dir": "runs/tiny2", "data": "x"}, {"runs/tiny/x": "2"}
    ) == ["data", "run_dir", "runs/tiny/x"]


def test_keys_that_change_no_result():
    old = {
        "recipe": "grpo",
        "inputs": {},
        "config": {
            "logged_samples": 4,
            "alarms": {"entropy": 0.1},
            "verifier": {"workers": 2, "time_limit": 5.0},
            "max_tokens_per_micro_batch": 8192,
            "groups": 1,
            "engine": {"url": "a", "model": "m"},
        },
    }
    new = {
        "logged_samples": 8,
        "alarms": {"entropy": 0.2},
        "verifier": {"workers": 8, "time_limit": 5.0},
        "max_tokens_per_micro_batch": 4096,
        "groups": 1,
        "engine": {"url": "b", "model": "m"},
    }
    assert what_changed(old, "grpo", new, {}) == []
    new |= {"groups": 2, "verifier": {"workers": 8, "time_limit": 9.0}}
    assert what_changed(old, "grpo", new, {}) == ["groups", "verifier.time_limit"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"recipe": "start"}', "3"])
def test_a_broken_manifest_is_named(tmp_path, text):
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "manifest.json").write_text(text)
    assert read_manifest(tmp_path / "start") is None
    cfg = StartConfig(output_dir=str(tmp_path / "start"), source={})
    (tmp_path / "start" / "model").write_text("work")
    with pytest.raises(UserError, match=r"start/manifest.json cannot be read; delete the folder"):
        RunFolder("start", cfg)
    (tmp_path / "start" / "model").unlink()
    RunFolder("start", cfg)  # nothing of worth there


def test_a_run_replaces_another_whole(tmp_path):
    cfg = StartConfig(output_dir=str(tmp_path / "start"), source={}, resume="never")
    (RunFolder("start", cfg).path / "model").write_text("old")
    again = dataclasses.replace(cfg, seed=1)
    RunFolder("start", again)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".start.lock", "start"]
    assert [p.name for p in (tmp_path / "start").iterdir()] == ["manifest.json"]
    assert json.loads((tmp_path / "start/manifest.json").read_text())["seed"] == 1


def test_another_chat_template_is_another_start(tmp_path, in_root):
    _, [step, *_] = chain_of(tmp_path)
    template = tmp_path / "template.jinja"
    template.write_text("a")
    (tmp_path / "config.json").write_text("{}")
    source = {
        "_component_": "custom_components.models.start.pretrained",
        "path": str(tmp_path / "config.json"),
        "chat_template": str(template),
    }
    step = changed(step, f"source={json.dumps(source)}")
    make_run(step)
    assert chain.state(step)[0] == "skip"
    template.write_text("b")
    assert chain.state(step) == ("rerun", f"run again: changed {template}")
    template.unlink()  # what is gone is named, and nothing else
    assert chain.state(step) == ("rerun", f"run again: changed {template}")


def test_a_folder_of_an_older_version_is_resumed_or_refused(tmp_path, in_root):
    """Refuse a run whose component has moved since, in one line that says what to do."""
    _, [start, sft, *_] = chain_of(tmp_path)
    make_run(start, "running")
    make_run(sft, "running")
    path = tmp_path / "run" / "sft" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["config"]["tokenizer"]["_component_"] = "custom_components.tokenizer.hf.ChatTokenizer"
    path.write_text(json.dumps(manifest))
    assert RunFolder("start", start.cfg).already_complete is False
    with pytest.raises(UserError) as e:
        RunFolder("sft", sft.cfg)
    assert str(e.value) == (
        f"{tmp_path}/run/sft holds another run (differs in: tokenizer._component_); set resume=never "
        "to replace it, or another output_dir"
    )
    assert chain.state(sft) == ("rerun", "run again: changed tokenizer._component_")

"""Test users' mistakes: one line that names the mistake, status 2, and no complete run."""

import json

import pytest
from conftest import SMALL, recipe

from custom_components.data.rows import read_rows


def refused(*args, **kwargs):
    done = recipe(*args, check=False, **kwargs)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    [line] = [x for x in done.stderr.splitlines() if x.startswith("error:")]
    return line


@pytest.fixture
def traces(tmp_path):
    def write(*rows):
        path = tmp_path / "traces.jsonl"
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
        return (
            "sources=[{_component_: custom_components.data.sources.jsonl, path: "
            + str(path)
            + "}]",
            f"output_dir={tmp_path / 'out'}",
        )

    return write


def test_curate_names_bad_data(traces, tmp_path):
    good = {"problem": "1+1?", "answer": "2", "response": "\\boxed{2}"}
    assert "traces.jsonl is empty" in refused("curate", *traces())
    assert "1 of 2 rows cannot be used" in refused("curate", *traces(good, {"problem": "x"}))
    rejects = [json.loads(x) for x in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert rejects == [
        {
            "where": f"{tmp_path / 'traces.jsonl'}, line 2",
            "reason": "column 'answer' is missing",
            "whole_file": False,
        }
    ]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["status"] == "running"
    # The same command with a higher limit keeps the good row, and counts the other.
    done = recipe("curate", *traces(good, {"problem": "x"}), "max_reject_share=0.6", "resume=never")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]["rejected"] == 1
    assert "1 of 2 rows rejected" in done.stdout


def test_a_gold_that_cannot_be_read_is_undecided(traces, tmp_path):
    row = {"problem": "1+1?", "answer": "\\frac{", "response": "\\boxed{2}"}
    recipe("curate", *traces(row), "splits.midtrain_per_problem=1")
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert (counts["undecided"], counts["correct"], counts["midtrain"]) == (1, 0, 0)


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("sft", ["data=/nowhere.parquet"], "input /nowhere.parquet does not exist"),
        ("sft", ["max_step=3"], "unknown key 'max_step'; did you mean 'max_steps'?"),
        ("sft", ["model.rope_facto=short"], "takes no argument 'rope_facto'"),
        (
            "sft",
            ["model.lora_rank=2", "model.lora_modules=[q]"],
            "lora_modules: unknown ['q']; valid: ['q_proj'",
        ),
        (
            "rollout",
            ["engine={_component_: custom_components.engines.teacher.Teacher}"],
            "did you mean 'AdditionTeacher'?",
        ),
        ("evaluate", ["only=[sfd]"], "no model 'sfd'; did you mean 'sft'?"),
        (
            "evaluate",
            ["tasks=[reasoning_tiny_adition]", "only=[start]"],
            "did you mean 'reasoning_tiny_addition'?",
        ),
        ("chain", ["stages=[{name: x, config: configs/tiny/x.yaml}]"], "no recipe recipes/x.py"),
    ],
)
def test_mistakes(small_run, tmp_path, name, overrides, words):
    assert words in refused(
        name,
        f"run_dir={small_run}",
        *([f"output_dir={tmp_path}/out"] if name != "chain" else []),
        *overrides,
    )


def test_folders_that_are_not_checkpoints(small_run, tmp_path):
    out = f"output_dir={tmp_path / 'out'}"
    common = ("sft", f"run_dir={small_run}", out)
    (tmp_path / "empty").mkdir()
    assert "is not a Hugging Face model folder" in refused(
        *common,
        f"checkpointer.checkpoint_dir={tmp_path / 'empty'}",
        f"tokenizer.path={small_run}/start/model",
    )
    assert "holds no tokenizer_config.json" in refused(
        *common, f"tokenizer.path={tmp_path / 'empty'}", "resume=never"
    )
    by_length = refused(*common, "model.rope_factor=by_length", "resume=never")
    assert "rope_factor=by_length" in by_length
    too_short = refused(*common, "max_seq_len=8", "resume=never")
    assert "none of 40 rows can be trained on (40 longer than max_seq_len" in too_short


@pytest.mark.parametrize("name", ["midtrain", "dpo", "grpo"])
def test_a_model_that_cannot_be_trained_is_refused_first(small_run, tmp_path, name):
    """Before the data, which is not even there to read, is tokenised or sampled from."""
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3_5ForCausalLM"]}')
    line = refused(
        name,
        f"run_dir={small_run}",
        f"output_dir={tmp_path / 'out'}",
        f"model={{_component_: custom_components.models.hf.from_folder, path: {tmp_path}}}",
    )
    assert f"{tmp_path}: architectures is Qwen3_5ForCausalLM; supported: LlamaForCausalLM" in line
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["manifest.json"]


def test_a_broken_gradient_skips_the_step_and_ends_the_run_in_the_end(small_run, tmp_path):
    line = refused(
        "sft",
        f"run_dir={small_run}",
        f"output_dir={tmp_path / 'out'}",
        *SMALL["sft"],
        "max_steps=12",
        "optimizer.lr=1e30",
        "warmup_ratio=0.0",
    )
    assert "not finite in 3 steps in a row" in line
    broken = [
        json.loads(x) for x in (tmp_path / "out" / "nonfinite.jsonl").read_text().splitlines()
    ]
    assert len(broken) == 3 and all(len(b["ids"]) == 8 for b in broken)
    ids = {row["id"] for row in read_rows(small_run / "curate" / "sft.parquet")}
    assert all(set(b["ids"]) <= ids for b in broken)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["status"] == "running"

"""Plant faults: the doctor finds each by its name, before anything is trained."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, TUNE

from custom_components.config import UserError, load
from custom_components.data.column_addition import column_addition
from custom_components.data.curation import MESSAGES_SCHEMA
from custom_components.data.data_config import CurateConfig, DecontaminationConfig
from custom_components.data.rows import rollout_row, write_rows
from custom_components.doctor import (
    DoctorConfig,
    EvaluationProblems,
    Finding,
    Stage,
    blocking,
    examine,
    planning,
    refuse,
    resources,
    template,
    training_data,
)
from custom_components.doctor.checks import check_decontamination
from custom_components.doctor.findings import NAMES, duration
from custom_components.doctor.forecast import check_groups
from custom_components.engines.engine import Completion
from custom_components.hub import HubError
from custom_components.models import config_json
from custom_components.models.start import random_tiny
from custom_components.rl.groups import Group, Sample
from custom_components.rl.rewards import RewardFunction, verified
from custom_components.rl.sampler import reward_groups
from custom_components.tokenizer.chat import ChatTokenizer
from custom_components.training.estimate import Memory
from custom_components.training.training_config import SFTConfig
from eval.evaluation_tasks import EvaluationProblem
from recipes.doctor import examine_chain, examine_stage, recipe_of

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # configs and recipes are named from there


@pytest.fixture(autouse=True)
def no_estimate(request, monkeypatch):
    """Skip the estimate of memory, which takes seconds, except in the test of it."""
    if "memory" not in request.node.name:
        nothing = Memory(*[0.0] * 7)
        monkeypatch.setattr(planning, "stage_memory", lambda *_, **__: nothing)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """Make a chain's folder with a start model, rollouts and a split."""
    run = tmp_path_factory.mktemp("doctor")
    model = run / "start" / "model"
    model.mkdir(parents=True)
    random_tiny(model)
    for stage in ("midtrain", "dpo"):
        shutil.copytree(model, run / stage / "model")
    problems = list(column_addition("distill", {2: 20, 3: 40}))
    write_rows(run / "curate" / "sft.parquet", [split_row(p) for p in problems], MESSAGES_SCHEMA)
    rows = [
        rollout_row(**p, response=f"<think>1</think>\\boxed{{{p['answer']}}}") for p in problems
    ]
    for i in range(2):
        write_rows(run / "rollout" / "rollouts" / f"{i:05d}.parquet", rows[30 * i : 30 * i + 30])
    return run


def split_row(problem: dict) -> dict:
    text = f"<think>1+1=2\n1+0+1=2</think>\\boxed{{{problem['answer']}}}"
    turns = [
        {"role": "user", "content": problem["problem"]},
        {"role": "assistant", "content": text},
    ]
    return {"id": problem["id"], "source": "x", "messages": turns, "answer": problem["answer"]}


def look(run_dir, stage, *overrides, track="tiny"):
    """Return the findings on one stage, {name: [findings]}."""
    config = f"configs/{track}/{stage}.yaml"
    _, findings = examine_stage(
        config, [f"run_dir={run_dir}", "doctor.forecast_prompts=0", *overrides]
    )
    names = {}
    for finding in findings:
        assert finding.name in NAMES and finding.stage
        names.setdefault(finding.name, []).append(finding)
    return names


def errors(names):
    return [name for name, findings in names.items() if any(f.level == "error" for f in findings)]


@pytest.mark.parametrize("stage", ["rollout", "curate", "sft", "grpo"])
def test_a_healthy_stage_has_no_error(run_dir, stage):
    assert errors(look(run_dir, stage)) == []


def with_template(run_dir, folder, old, new):
    """Copy the start model with `new` in place of `old` in its chat template; return an override."""
    shutil.copytree(run_dir / "start" / "model", folder)
    path = folder / "chat_template.jinja"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return f"tokenizer.path={folder}"


def test_a_template_without_end_of_turn(run_dir, tmp_path):
    path = with_template(run_dir, tmp_path / "model", "<|end|>", "")
    assert errors(look(run_dir, "sft", path)) == ["end_of_turn"]


SWITCH = (
    "{% if add_generation_prompt %}{{ '<think>' if enable_thinking is not defined "
    "or enable_thinking else '<think></think>' }}{% endif %}"
)


def with_prompt_end(run_dir, folder, end):
    """A copy of the start model whose chat template ends the prompt in `end`."""
    path = with_template(run_dir, folder, "<|assistant|>", "<|assistant|>")
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text() + end)
    return path


WHOLE, PLAIN = "<think>1</think>\\boxed{1}", "\\boxed{1}"


def reasoning(folder, plain, **options):
    """The findings on 10 responses, some of them without reasoning, under a folder's template."""
    tokenizer = ChatTokenizer(folder, **options)
    responses = [PLAIN] * plain + [WHOLE] * (10 - plain)
    return list(template.check_reasoning(tokenizer, "sft.parquet", responses))


def test_a_template_that_opens_the_thought(run_dir, tmp_path):
    """Rows with their reasoning fit it, and so does a teacher's; others are left out, and named."""
    path = with_prompt_end(run_dir, tmp_path / "model", SWITCH)
    for stage in ("sft", "rollout"):
        assert "reasoning" not in look(run_dir, stage, path)
    for plain, level in ((2, "warning"), (10, "error")):
        [found] = reasoning(tmp_path / "model", plain)
        assert found.level == level and f"{plain} of 10 responses" in found.what
        assert "tokenizer.chat_template_kwargs={enable_thinking: false}" in found.change
    assert not reasoning(tmp_path / "model", 0)
    assert not reasoning(tmp_path / "model", 10, chat_template_kwargs={"enable_thinking": False})
    rows = pq.read_table(run_dir / "curate" / "sft.parquet").to_pylist()
    for row in rows:
        row["messages"][1]["content"] = PLAIN
    write_rows(tmp_path / "sft.parquet", rows, MESSAGES_SCHEMA)
    assert errors(look(run_dir, "sft", path, f"data={tmp_path}/sft.parquet")) == ["reasoning"]


def test_a_template_that_closes_the_thought(run_dir, tmp_path):
    path = with_prompt_end(run_dir, tmp_path / "model", SWITCH)
    [found] = reasoning(tmp_path / "model", 4, chat_template_kwargs={"enable_thinking": False})
    assert found.level == "warning" and "6 of 10 responses" in found.what
    assert found.change == "tokenizer.chat_template_kwargs={enable_thinking: true}"
    off = "tokenizer.chat_template_kwargs={enable_thinking: false}"
    assert "reasoning" not in look(run_dir, "rollout", path, off)  # the config says so
    always = with_prompt_end(run_dir, tmp_path / "always", "<think></think>")
    [found] = look(run_dir, "rollout", always)["reasoning"]
    assert found.level == "warning" and f"into {tmp_path}/always" in found.change


def test_responses_whose_opening_is_lost(run_dir, tmp_path):
    """Splits of an older version, and replies cut off inside a thought that the prompt opened."""
    tokenizer = ChatTokenizer(run_dir / "start" / "model")
    [found] = template.check_reasoning(tokenizer, "x", [WHOLE.removeprefix("<think>")] * 2)
    assert found.level == "error" and "run curate again" in found.change
    shutil.copytree(run_dir / "rollout", tmp_path / "rollout")
    file = tmp_path / "rollout" / "rollouts" / "00000.parquet"
    rows = pq.read_table(file).to_pylist()
    rows[0] |= {"response": "1+1 is \\boxed{2}? Wait,", "finish_reason": "length"}
    write_rows(file, rows)
    source = f"sources.0.path={tmp_path}/rollout"
    [found] = look(run_dir, "curate", source)["reasoning"]
    assert found.level == "warning" and "1 of 1 cut-off responses" in found.what
    assert found.change.startswith("sources.0.reasoning_open=true")
    assert "reasoning" not in look(run_dir, "curate", source, "sources.0.reasoning_open=true")


def test_padding_that_hides_the_end_of_the_turn(run_dir):
    findings = look(run_dir, "sft", "tokenizer._component_=faulty_tokenizers.PaddingHidesTheEnd")
    assert errors(findings) == ["pad_is_end_of_turn"]
    assert "60 of 60 rows" in findings["pad_is_end_of_turn"][1].what


def test_another_longrope_branch_in_the_engine(run_dir):
    assert errors(look(run_dir, "grpo", "engine.rope_factor=short")) == ["rope_branch"]


def test_a_short_branch_with_long_sequences(run_dir):
    findings = look(run_dir, "sft", "model.rope_factor=short")
    assert errors(findings) == ["rope_branch"] and "256" in findings["rope_branch"][0].what


def test_responses_without_room(run_dir):
    trained = f"doctor.trained_on={run_dir}/curate/sft.parquet"
    assert errors(look(run_dir, "grpo", trained)) == []
    findings = look(run_dir, "grpo", trained, "max_new_tokens=16")
    assert errors(findings) == ["max_new_tokens"]
    assert findings["max_new_tokens"][0].what.startswith("100% of 60 responses")


def problems_file(folder, rows):
    folder.mkdir(exist_ok=True)
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def of_file(path, **columns):
    names = "".join(f", {key}: {value}" for key, value in columns.items())
    return f"problems={{_component_: custom_components.data.problems.table, path: {path}{names}}}"


def test_a_wrong_answer_column(run_dir, tmp_path):
    solution = "First we add one and one, which gives two, and then we are done with it."
    rows = [{"problem": f"{i}+1=?", "solution": solution, "final": str(i + 1)} for i in range(30)]
    path = problems_file(tmp_path, rows)
    missing = look(run_dir, "grpo", of_file(path))
    assert errors(missing) == ["data_unreadable"] or errors(missing) == ["data_columns"]
    assert "'answer' is missing" in str(missing)
    assert "answer_column" in errors(look(run_dir, "grpo", of_file(path, answer="solution")))
    assert "answer_column" in errors(look(run_dir, "grpo", of_file(path, answer="problem")))
    assert errors(look(run_dir, "grpo", of_file(path, answer="final"))) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"ground_truth": "2"}, "is an object; name the text in it: answer.ground_truth"),
        (float("nan"), "is NaN or infinite"),
        (True, "is true or false"),
    ],
)
def test_answers_that_are_not_text(run_dir, tmp_path, answer, words):
    path = problems_file(tmp_path, [{"problem": f"{i}+1=?", "answer": answer} for i in range(30)])
    findings = look(run_dir, "grpo", of_file(path))
    assert errors(findings) in (["data_unreadable"], ["data_columns"]) and words in str(findings)


def test_answers_of_zero_and_other_forms_of_json(run_dir, tmp_path):
    rows = [{"problem": f"{i}-{i}=?", "answer": 0, "id": None} for i in range(30)]
    path = problems_file(tmp_path, rows)
    assert "data_columns" not in look(run_dir, "grpo", of_file(path))
    Path(path).write_text("\ufeff" + json.dumps(rows), encoding="utf-8")
    assert "data_columns" not in look(run_dir, "grpo", of_file(path))
    Path(path).write_bytes(
        json.dumps({"problem": "é", "answer": 1}, ensure_ascii=False).encode("latin-1")
    )
    assert "not UTF-8" in str(look(run_dir, "grpo", of_file(path)))


def test_golds_that_the_verifier_cannot_read(run_dir, tmp_path):
    rows = [{"problem": f"p{i}", "answer": str(i)} for i in range(20)]
    one = problems_file(tmp_path, [*rows, {"problem": "q", "answer": "\\frac{"}])
    findings = look(run_dir, "grpo", of_file(one))["gold_unreadable"]
    assert findings[0].level == "warning" and "1 of 21" in findings[0].what
    many = problems_file(
        tmp_path,
        [
            *rows,
            *({"problem": "q", "answer": g} for g in ("$$", "?", "\\frac{", "{}{}", "??", "$")),
        ],
    )
    assert errors(look(run_dir, "grpo", of_file(many))) == ["gold_unreadable"]


def test_an_unreadable_shard(run_dir, tmp_path):
    shutil.copytree(run_dir / "rollout", tmp_path / "rollout")
    shard = tmp_path / "rollout" / "rollouts" / "00001.parquet"
    shard.write_bytes(shard.read_bytes()[:200])
    findings = look(run_dir, "curate", f"sources.0.path={tmp_path}/rollout")
    assert errors(findings) == ["data_unreadable"] and "00001.parquet" in str(findings)
    split = tmp_path / "sft.parquet"
    split.write_bytes(b"PAR1 and no more")
    assert errors(look(run_dir, "sft", f"data={split}")) == ["data_unreadable"]
    assert "data_unreadable" in errors(look(run_dir, "grpo", of_file(tmp_path / "none.jsonl")))


def turns(user, assistant="2"):
    texts = {"user": user, "assistant": assistant}
    return {"messages": [{"role": role, "content": text} for role, text in texts.items()]}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"from": "human", "value": "1+1"}, {"from": "gpt", "value": "2"}]},
        {"messages": "1+1"},
        {"messages": 2},
        turns(None),
        turns([{"type": "text", "text": "1+1"}], [{"type": "text", "text": "2"}]),
        {"prompt": "1+1", "chosen": "2", "rejected": "3", "rejected_finished": True},
    ],
)
def test_rows_without_turns(run_dir, tmp_path, row):
    path = tmp_path / "sft.parquet"
    pq.write_table(pa.Table.from_pylist([row]), path)
    assert errors(look(run_dir, "sft", f"data={path}")) == ["data_columns"]


@pytest.mark.parametrize("template", ["{{ raise_exception('roles must alternate') }}", "{% if %}"])
def test_a_template_that_cannot_be_rendered(run_dir, tmp_path, template):
    path = with_template(run_dir, tmp_path / "model", "", "")
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    findings = look(run_dir, "sft", path)
    assert errors(findings) == ["tokenizer"] and "cannot render" in findings["tokenizer"][0].what


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("weights_dtype=fp16", "weights_dtype must be bf16 or fp32, not 'fp16'"),
        ("batch_size=0", "batch_size must be at least 1, not 0"),
        ("max_seq_len=-1", "max_seq_len must be at least 1, not -1"),
        ("doctor.ranks=0", "doctor.ranks must be at least 1, not 0"),
        ("doctor.rows=0", "doctor.rows must be at least 1, not 0"),
    ],
)
def test_numbers_that_no_run_can_have(run_dir, override, words):
    with pytest.raises(UserError, match=words):
        look(run_dir, "sft", override)


def test_an_optimizer_without_a_name(run_dir, tmp_path):
    text = (ROOT / "configs/tiny/sft.yaml").read_text()
    (tmp_path / "sft.yaml").write_text(text.replace("  _component_: torch.optim.AdamW\n", ""))
    with pytest.raises(UserError, match="optimizer._component_=package.builder"):
        examine_stage(str(tmp_path / "sft.yaml"), [f"run_dir={run_dir}"])


def test_a_split_is_read_before_its_tokenizer_is_there(run_dir, tmp_path):
    split = tmp_path / "sft.jsonl"
    split.write_text("{}\n")
    findings = look(run_dir, "sft", f"data={split}", "tokenizer.path=hub/id")
    assert errors(findings) == ["data_unreadable"] and "cannot be read as Parquet" in str(findings)


def test_a_set_that_cannot_be_loaded_hides_no_other():
    later = EvaluationProblem("reasoning_gsm8k", True, "p")
    known = EvaluationProblems(lambda: iter([UserError("no aime24"), later, UserError("no gpqa")]))
    assert known.problems == [later] and known.failures == ["no aime24", "no gpqa"]


def test_what_no_stage_makes_is_missing(run_dir, tmp_path):
    """Check that a stage on its own gets a warning for an input that the chain may make."""
    findings = look(run_dir, "sft", f"data={run_dir}/curate/stf.parquet")["data_unreadable"]
    assert [f.level for f in findings] == ["warning"]
    assert "stf.parquet does not exist (has the stage that makes it" in findings[0].what
    missing = [f"data={tmp_path}/x.parquet", f"tokenizer.path={run_dir}/none"]
    both = look(run_dir, "sft", *missing)["data_unreadable"]
    assert [(f.level, f.what.split(":")[0]) for f in both] == [
        ("error", "data"),
        ("warning", "tokenizer.path"),
    ]


def test_what_an_earlier_stage_makes_is_not_missing(tmp_path, monkeypatch):
    """Check it with another spelling of the folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("configs", "recipes", "eval"):
        Path(name).symlink_to(ROOT / name)

    def named(*stages):
        chosen = [f"run_dir={tmp_path}/run", f"only=[{','.join(stages)}]"]
        more = ["stages.1.overrides=[output_dir=run/rollout]"]
        _, findings = examine_chain("configs/tiny/chain.yaml", [*chosen, *more])
        return [(f.name, f.level, f.stage) for f in findings if f.level != "note"]

    assert named("start", "rollout", "curate") == []
    assert named("curate") == [("data_unreadable", "error", "curate")]


def test_a_context_beyond_the_model(run_dir):
    assert "context" in errors(look(run_dir, "sft", "max_seq_len=4096"))
    assert "context" in errors(look(run_dir, "grpo", "max_new_tokens=1024"))


def test_a_teacher_of_another_family(run_dir, tmp_path):
    config = {"architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": 4096}
    (tmp_path / "config.json").write_text(json.dumps(config))
    teacher = [
        f"engine={{_component_: custom_components.engines.vllm_engine.VLLMEngine, model: {tmp_path}}}"
    ]
    assert errors(look(run_dir, "rollout", *teacher, "sampling.max_new_tokens=512")) == []
    findings = look(run_dir, "rollout", *teacher, "sampling.max_new_tokens=4096")
    assert errors(findings) == ["context"] and "the 4096 served" in findings["context"][0].what


def test_a_start_model_that_cannot_be_trained(tmp_path, monkeypatch):
    config = {"architectures": ["Qwen3_5ForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = "{_component_: custom_components.models.start.pretrained, path: %s}"
    chain = [f"run_dir={tmp_path}/run", "only=[start]"]
    chain.append(f"stages.0.overrides=['source={source % tmp_path}']")
    _, findings = examine_chain("configs/tiny/chain.yaml", chain)
    assert [f.name for f in blocking(findings, [])] == ["model"]
    assert f"{tmp_path}: architectures is Qwen3_5ForCausalLM" in findings[0].what
    # A later stage on its own, and an engine that computes with the decoder.
    refused = [f"model={{_component_: custom_components.models.hf.from_folder, path: {tmp_path}}}"]
    assert "model" in errors(look(tmp_path / "run", "sft", *refused))
    assert "model" in errors(look(tmp_path / "run", "grpo", f"engine.model={tmp_path}"))

    def unreachable(path, key, revision=None):
        raise HubError(f"{key}: {path} could not be downloaded")

    monkeypatch.setattr(config_json, "folder_with_config", unreachable)
    findings = look(tmp_path / "run", "start", f"source={source % 'some/model'}")
    assert [f.level for f in findings["model"]] == ["warning"]


def test_rows_longer_than_the_limit(run_dir):
    findings = look(run_dir, "sft", "max_seq_len=20")
    assert errors(findings) == ["too_long"]
    assert findings["too_long"][0].what.startswith("100% of 60 rows")


def test_too_little_memory(run_dir):
    assert errors(look(run_dir, "sft", "doctor.memory_gib=1.6")) == ["memory"]
    big = look("/nowhere", "sft", "doctor.device=RTX 4090", track="phi4_mini")
    assert "memory" in errors(big)
    fits = look("/nowhere", "sft", "doctor.device=H100", "doctor.ranks=8", track="phi4_mini")
    assert "memory" not in errors(fits)


def test_the_gpus_own_tool_says_what_it_has(run_dir, tmp_path, monkeypatch):
    """Use a stand-in for nvidia-smi: there is no GPU here."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 4090, 24564'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    planning.installed_gpu.cache_clear()
    assert planning.installed_gpu() == ("NVIDIA GeForce RTX 4090", 24564 / 1024)
    findings = look("/nowhere", "grpo", track="phi4_mini")
    planning.installed_gpu.cache_clear()
    assert "4090" in str(findings["time"])


def test_too_little_disk(run_dir):
    assert errors(look(run_dir, "sft", "keep_checkpoints=1000000")) == ["disk"]


def test_a_resumed_run_has_its_checkpoints_already(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    output = tmp_path / "sft"
    assert errors(look(run_dir, "sft", f"output_dir={output}")) == ["disk"]
    (output / "checkpoints" / "step_100").mkdir(parents=True)
    with open(output / "checkpoints" / "step_100" / "all", "wb") as file:
        file.truncate(2**30)
    assert errors(look(run_dir, "sft", f"output_dir={output}")) == []


def test_evaluation_problems_in_the_training_split(run_dir, tmp_path):
    fresh = list(column_addition("distill", {3: 60}))
    held_out = list(column_addition("eval", {2: 150}))[:3]
    path = tmp_path / "sft.parquet"
    write_rows(path, [split_row(p) for p in [*fresh, *held_out]], MESSAGES_SCHEMA)
    findings = look(run_dir, "sft", f"data={path}")
    assert (
        errors(findings) == ["contaminated"]
        and "3 of 63 problems" in findings["contaminated"][0].what
    )


def test_few_copies_among_many_problems_are_a_warning(run_dir, tmp_path, monkeypatch):
    """Search all problems for exact copies, and `doctor.rows` of them for altered ones."""
    monkeypatch.setattr(training_data.Decontaminator, "check", lambda _, texts: [None] * len(texts))
    problems = list(column_addition("distill", {3: 200, 4: 200}))
    path = tmp_path / "sft.parquet"
    write_rows(path, [split_row(p) for p in problems], MESSAGES_SCHEMA)
    known = [EvaluationProblem("reasoning_x", True, problems[0]["problem"])]
    cfg = load(SFTConfig, "configs/tiny/sft.yaml", [f"run_dir={run_dir}", f"data={path}"])
    (finding,) = training_data.check_contamination(Stage("sft", "sft", cfg), known, 20)
    assert finding.level == "warning" and "1 of 400 problems" in finding.what


def test_altered_copies_of_a_benchmarks_problem(run_dir, tmp_path):
    """Check that a problem with other names and numbers is still a copy."""
    problem = (
        "Mary sold clips to 48 of her friends in April and then she sold half as many clips in "
        "May. How many clips did Mary sell altogether in April and May?"
    )
    row = split_row({"id": "a", "problem": problem, "answer": "72"})
    path = tmp_path / "sft.parquet"
    write_rows(path, [row], MESSAGES_SCHEMA)
    known = EvaluationProblems(
        lambda: iter([EvaluationProblem("reasoning_x", True, problem.replace("Mary", "Anna"))])
    )
    cfg = load(SFTConfig, "configs/tiny/sft.yaml", [f"run_dir={run_dir}", f"data={path}"])
    findings = examine([Stage("sft", "sft", cfg)], DoctorConfig(), known)
    assert [f.name for f in blocking(findings, [])] == ["contaminated"]
    assert blocking(findings, ["contaminated"]) == []


def test_sets_that_a_curate_stage_lacks(run_dir, tmp_path):
    """Check that the advice keeps the sets that are given, and can be followed."""
    own = problems_file(tmp_path, [{"problem": "1+1?", "answer": "2"}])
    evaluation = tmp_path / "evaluate.yaml"
    tiny = (ROOT / "configs/tiny/evaluate.yaml").read_text()
    evaluation.write_text(
        f"{tiny}{of_file(own).replace('=', ': ', 1)}\n".replace(
            "[reasoning_tiny_addition]", "[reasoning_own]"
        )
    )

    def advice(*sets):
        findings = look(
            run_dir,
            "curate",
            f"doctor.evaluation={evaluation}",
            f"decontamination.sets=[{','.join(map(str, sets))}]",
        )
        return [f.change for f in findings.get("decontamination", []) if f.change]

    other = problems_file(tmp_path / "x", [{"problem": "2+2?", "answer": "4"}])
    assert advice(other) == [f"decontamination.sets=[{other},{own}]"]
    assert advice(tmp_path / "x" / ".." / own.name) == []


def test_advice_names_public_sets_only():
    """Leave out a task of the user's own, which curate does not know."""
    sets = DecontaminationConfig(sets=["data/mine.jsonl"])
    cfg = CurateConfig(output_dir="", sources=[], decontamination=sets)
    tasks = ["reasoning_gsm8k", "my_task", "reasoning_own"]
    used = [EvaluationProblem(task, True, "p") for task in tasks]
    (finding,) = check_decontamination(
        Stage("curate", "curate", cfg), EvaluationProblems(lambda: iter(used))
    )
    assert finding.change == "decontamination.sets=[data/mine.jsonl,gsm8k]"
    assert "lacks gsm8k," in finding.what


def test_stages_that_train_different_branches(tmp_path):
    """Compare the stages of a chain, which a single stage cannot know."""
    config = tmp_path / "chain.yaml"
    config.write_text(
        f"run_dir: {tmp_path}/run\nevaluation: configs/tiny/evaluate.yaml\n"
        "task: reasoning_tiny_addition\nstages:\n"
        "  - {name: midtrain, config: configs/tiny/midtrain.yaml}\n"
        "  - {name: sft, config: configs/tiny/sft.yaml, overrides: [model.rope_factor=short, max_seq_len=256]}\n"
    )
    _, findings = examine_chain(str(config), [])
    bad = blocking(findings, ["data_unreadable"])
    assert [(f.name, f.stage) for f in bad] == [("rope_branch", "sft")]
    _, alike = examine_chain(str(config), ["only=[sft]"])
    assert [(f.name, f.stage) for f in blocking(alike, ["data_unreadable"])] == [
        ("rope_branch", "sft")
    ]


def test_a_chosen_stage_knows_what_it_learned_from(run_dir):
    """Check it when the stage before is not chosen."""
    overrides = [f"run_dir={run_dir}", "only=[grpo]", "stages.6.overrides=[max_new_tokens=16]"]
    _, findings = examine_chain("configs/tiny/chain.yaml", overrides)
    assert [(f.name, f.stage) for f in blocking(findings, [])] == [("max_new_tokens", "grpo")]


VERIFIED = RewardFunction("verified", verified, 1.0)


def group(*verdicts_, cut=0, function=VERIFIED):
    samples = [
        Sample([1], Completion([1], [0.0], "length" if i < cut else "stop"), "x", verdict)
        for i, verdict in enumerate(verdicts_)
    ]
    rewarded = Group({"problem": "p", "answer": "1"}, [1], samples)
    reward_groups([rewarded], [function], limit=8)
    return rewarded


def test_the_forecast_of_an_rl_stage():
    def named(groups):
        return {f.name: f for f in check_groups(groups, max_new_tokens=8)}

    wrong, mixed = group("incorrect", "incorrect"), group("correct", "incorrect")
    fine = named([mixed, mixed, mixed, group("correct", "correct")])
    assert [f.level for f in fine.values()] == ["note"]
    assert (
        fine["zero_variance"].what.startswith("3 of 4 groups")
        and "1 are all right, 0 all wrong" in fine["zero_variance"].what
    )
    flat = named([wrong] * 4 + [mixed])
    assert flat["zero_variance"].level == "warning"
    cut = named([group("incorrect", "incorrect", cut=2)] * 3)
    assert cut["max_new_tokens"].level == "error" and "100%" in cut["max_new_tokens"].what
    unsure = named([group("correct", "undecided"), mixed])
    assert "1 of 4" in unsure["gold_unreadable"].what

    def fails_on_wrong_ones(problem, response):
        return {"correct": 1.0}[response.verdict]

    half = group("correct", "incorrect", function=RewardFunction("own", fails_on_wrong_ones, 1.0))
    assert named([half, mixed])["reward"].what.startswith(
        "a reward function fails on 1 of 4 responses, e.g. own: KeyError: 'incorrect'"
    )


@pytest.mark.parametrize(
    ("config", "recipe"),
    [
        ("tiny/sft", "sft"),
        ("smollm2_135m/pairs", "curate"),
        ("smollm2_135m/curate_traces", "curate"),
        ("phi4_mini/curate_limo", "curate"),
        ("phi4_mini/rollout_server", "rollout"),
        ("smollm2_135m/evaluate_cpu", "evaluate"),
    ],
)
def test_a_yaml_tells_its_recipe(config, recipe):
    assert recipe_of(f"configs/{config}.yaml") == recipe


def test_durations_are_read_at_a_glance():
    said = ["a minute or less", "10 minutes", "2.5 hours"]
    assert [duration(s) for s in (20, 600, 9000)] == said


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="no finding 'memry'; did you mean 'memory'"):
        DoctorConfig(allow=["memry"])


def test_the_way_on_keeps_what_is_allowed():
    findings = [
        Finding(name, "error", "", "", "") for name in ("disk", "memory", "memory", "context")
    ]
    with pytest.raises(
        UserError, match=r"found context,memory; .* doctor.allow=\[context,disk,memory\]"
    ):
        refuse(findings, ["disk"])
    refuse(findings, ["disk", "memory", "context"])


def test_it_ends_with_status_2_and_says_what_to_do(run_dir):
    """Run it through `tune run`. All responses of the untrained model are cut off."""
    command = [
        TUNE,
        "run",
        "recipes/doctor.py",
        "--config",
        "configs/tiny/grpo.yaml",
        f"run_dir={run_dir}",
        "max_new_tokens=2",
        "doctor.forecast_prompts=8",
        f"doctor.output={run_dir}/found.json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "error: the doctor found max_new_tokens; fix that, or continue with " in done.stderr
    assert "do: raise max_new_tokens, or train longer" in done.stdout
    findings = json.loads((run_dir / "found.json").read_text())
    assert {"name", "level", "what", "why", "change", "stage"} == set(findings[0])


def test_the_docs_list_every_name():
    text = (ROOT / "docs" / "CHAIN.md").read_text()
    for name, meaning in NAMES.items():
        assert f"| `{name}` | {meaning} |" in text

"""Test the chain's report: its contents, and that missing files do not prevent it."""

import json
import re
import shutil

import pytest
from chain_folder import HOSTILE, STAGES, TASK, evaluation, problem, small_chain, stage

from custom_components import hub
from custom_components.cards import model_card
from custom_components.config import UserError
from custom_components.io import sha256_of, write_json
from custom_components.report import browser
from custom_components.report.ablation_table import print_ablation
from custom_components.report.breakdown import by_length, length_bins
from custom_components.report.chain_report import build_report, make_report
from custom_components.report.svg import line_chart, nice_ticks, short, thinned
from custom_components.runs.processes import last_words
from custom_components.tokenizer.prompt_form import PromptForm


def page_of(run_dir):
    return make_report(run_dir, TASK, STAGES, [("start", "grpo")])[1].read_text()


def data_of(page):
    [text] = re.findall(r'id="data-samples">(.*?)</script>', page, re.S)
    return json.loads(text)


def test_everything_has_its_place(tmp_path):
    page = page_of(small_chain(tmp_path))
    for words in (
        "83.3 [51.6, 97.9]",
        "grpo − start",
        "By difficulty",
        "6 problems",
        "By length",
        "step 2:</strong> the entropy has collapsed",
        "<title>Mean reward</title>",
        "ngram",
        "12 of 12 problems",
        "3 of 3 logged training samples",
        "1 x cpu",
        "7 of 7 steps complete",
    ):
        assert words in page, words
    for outside in ('src="http', 'href="http', "url(", "@import", "fetch("):
        assert outside not in page


def test_it_is_the_same_every_time(tmp_path):
    small_chain(tmp_path)
    pages = [re.sub(r"Made [^.]*\.", "", page_of(tmp_path)) for _ in range(2)]
    assert pages[0] == pages[1]


def test_what_a_model_wrote_cannot_leave_its_json(tmp_path):
    page = page_of(small_chain(tmp_path))
    assert page.count("<script") == page.count("</script>") == 2 and "\u2028" not in page
    assert (
        "<!--" not in page
        and "<think>" not in page
        and "onerror" not in page.split('id="data-samples"')[0]
    )
    shown = {p["id"]: p for p in data_of(page)["problems"]}
    assert shown["p3"]["stages"]["sft"]["responses"][0]["text"] == HOSTILE.replace("\ud800", "?")


def test_labels_are_text_too(tmp_path):
    evaluation(
        tmp_path, "start", [problem(0, ["correct"]) | {"difficulty": HOSTILE.replace("\ud800", "")}]
    )
    page = page_of(tmp_path)
    assert "&lt;/script&gt;" in page and page.count("<script") == 2


@pytest.mark.parametrize("stages", range(5))
def test_a_run_under_way(tmp_path, stages):
    """The report shows the stages that have run."""
    whole, run = small_chain(tmp_path / "whole"), tmp_path / "run"
    run.mkdir()
    for s in STAGES[:stages]:
        for folder in (s["name"], f"eval/{s['name']}"):
            if (whole / folder).exists() and not (folder == "eval/grpo"):
                shutil.copytree(whole / folder, run / folder)
    if stages == 4:
        stage(run, "grpo", "grpo", status="running", counts={})
        with open(run / "grpo" / "metrics.jsonl", "a") as f:
            f.write('{"step": 4, "rewa')
        (run / "grpo" / "alarms.jsonl").unlink()
    page = page_of(run)
    if not stages:
        assert "No stage has been evaluated yet." in page and "0 of 7" in page
    if stages == 4:
        assert (
            "unfinished" in page
            and "last sign of life" in page
            and "<title>Mean reward</title>" in page
        )


def test_a_failed_stage_says_why(tmp_path):
    stage(tmp_path, "sft", "sft", status="running")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "sft.log").write_text("0%\rerror: the loss <b>burns</b>\n")
    assert "+ sft failed:</strong> the loss &lt;b&gt;burns&lt;/b&gt;" in page_of(tmp_path)


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("step\nerror: no data\n\nended with status 2\n", "no data"),
        (
            "[rank1]: Traceback\n[rank1]: torch.OutOfMemoryError: CUDA out of memory\n"
            "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n=====\n\nended with status 1\n",
            "torch.OutOfMemoryError: CUDA out of memory",
        ),
        (
            "sft: 3/9\n\nended with status -9\n",
            "killed by SIGKILL, perhaps for want of memory; last line: sft: 3/9",
        ),
        (
            "Segmentation fault\n\nended with status -11\n",
            "ended with status -11; last line: Segmentation fault",
        ),
        ("\nended with status 1\n", "ended with status 1; last line: no output"),
        ("ValueError: caught and told\n0%\n", None),
    ],
)
def test_the_line_that_matters(tmp_path, log, error):
    (tmp_path / "log").write_text(log)
    assert last_words(tmp_path / "log")[0] == error


def test_a_stage_that_the_doctor_refused_is_failed(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "doctor-grpo.log").write_text("error: 1 found: max_new_tokens\n")
    assert "+ grpo failed:</strong> 1 found: max_new_tokens" in page_of(tmp_path)


def test_results_of_an_earlier_model_are_left_out(tmp_path):
    small_chain(tmp_path)
    for folder in ("start", "sft"):
        (tmp_path / folder / "model").mkdir()
        write_json(tmp_path / folder / "model" / "config.json", {"by": folder})
    later = {"started": "2026-01-02T00:00:00+0000"}
    stage(tmp_path, "sft", "sft", **later)
    assert [s["name"] for s in build_report(tmp_path, TASK, STAGES)["stages"]] == ["start", "grpo"]
    # The same model again counts as the evaluated one.
    read = {"inputs": {"run/sft/model": sha256_of(tmp_path / "sft" / "model")}}
    stage(tmp_path, "eval/sft", "evaluate", **read)
    assert [s["name"] for s in build_report(tmp_path, TASK, STAGES)["stages"]] == [
        "start",
        "sft",
        "grpo",
    ]
    stage(tmp_path, "sft", "sft", status="running", **later)
    assert [s["name"] for s in build_report(tmp_path, TASK, STAGES)["stages"]] == ["start", "grpo"]


def test_rows_that_no_recipe_wrote_are_passed_over(tmp_path):
    small_chain(tmp_path)
    for file in ("metrics", "alarms", "nonfinite", "samples"):
        with open(tmp_path / "grpo" / f"{file}.jsonl", "a") as f:
            f.write('null\n3\n{}\n[1]\n{"step": "a", "reward": 1}\n{"step": 9, "reward": null}\n')
    page = page_of(tmp_path)
    assert "<title>Mean reward</title>" in page and "grpo" in page


def test_stages_with_other_difficulties(tmp_path, capsys):
    evaluation(tmp_path, "start", [problem(0, ["correct"])])
    evaluation(tmp_path, "sft", [problem(1, ["correct"])])
    print_ablation(build_report(tmp_path, TASK, STAGES))
    assert "–" in capsys.readouterr().out


def test_an_evaluation_without_the_task_or_the_samples_is_named(tmp_path):
    evaluation(tmp_path, "start", [problem(0, ["correct"])])
    with pytest.raises(UserError, match="has no task 'other'; there are reasoning_tiny_addition"):
        make_report(tmp_path, "other", STAGES, [])
    file = tmp_path / "eval/start/start.samples.jsonl"
    row = json.loads(file.read_text())
    del row["samples"]
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="line 1: no 'samples'; evaluate start again"):
        page_of(tmp_path)


def test_long_runs_make_a_small_page(tmp_path):
    long = "a" * 20_000
    for name in ("start", "sft"):
        evaluation(
            tmp_path, name, [problem(i, ["correct", "incorrect"] * 4, long) for i in range(120)]
        )
    with open(stage(tmp_path, "sft", "sft") / "metrics.jsonl", "w") as f:
        f.writelines(f'{{"step": {i}, "loss": {1 + i % 7}}}\n' for i in range(1, 100_001))
    page = page_of(tmp_path)
    assert len(page) < 4_500_000
    shown = data_of(page)["problems"]
    assert 20 < len(shown) < 120 and f"{len(shown)} of 120 problems" in page
    of = shown[0]["stages"]["sft"]
    assert of["of"] == 8 and len(of["responses"]) == browser.MAX_RESPONSES
    assert "[... 14,000 characters cut ...]" in of["responses"][0]["text"]


def test_the_courses_take_turns():
    """98 problems stay wrong, one is won and one is lost; both are among the first three."""
    scores = {
        "a": {f"p{i}": float(i == 7) for i in range(100)},
        "b": {f"p{i}": float(i == 9) for i in range(100)},
    }
    assert {"p7", "p9"} < set(browser.choose_ids(scores, 3))
    assert browser.choose_ids(scores, 50) == browser.choose_ids(scores, 100)[:50]
    del scores["b"]["p7"]
    assert "p7" not in browser.choose_ids(scores)


def test_bins_by_hand():
    ends = length_bins([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    assert ends == [2, 4, 6, 8, 10] and length_bins([7] * 20) == [7] and length_bins([]) == []
    [first, *_, last] = by_length([(1, True), (2, False), (10, True)], ends)
    assert first == {"from": 0, "to": 2, "n_samples": 2, "accuracy": 0.5}
    assert last["accuracy"] == 1.0 and by_length([], ends)[0]["accuracy"] is None


def test_charts():
    assert nice_ticks(0, 0.83, 4) == [0, 0.25, 0.5, 0.75, 1.0]
    assert [short(x) for x in (0, 0.25, 20_000, 3e-5, -2.5)] == ["0", "0.25", "20k", "3e-5", "-2.5"]
    assert thinned([(i, 2 * i) for i in range(6)], 3) == [(0.5, 1), (2.5, 5), (4.5, 9)]
    for series in ([[(1, 0.0)]], [[(1, 5.0), (2, 5.0)]], [[(1, -1.0), (9, 3.0)], [(1, 1e-9)]]):
        assert "nan" not in line_chart("x", series, True)


def test_a_card_gets_the_results_and_no_hash_changes(tmp_path):
    small_chain(tmp_path)
    start, model = tmp_path / "start/model", tmp_path / "sft/model"
    for folder in (start, model):
        folder.mkdir()
        write_json(folder / "config.json", {})
    (start / "README.md").write_text("---\nlicense: mit\nlicense_link: there\n---\n# Base\n")
    config = json.loads((tmp_path / "sft/manifest.json").read_text())["config"]
    config["data"] = str(tmp_path / "curate/sft.parquet")
    stage(tmp_path, "sft", "sft", config=config)
    (model / "README.md").write_text(model_card("sft", 3, config))
    PromptForm(instruction="Box it.").save(model)
    before = sha256_of(model)
    page_of(tmp_path)
    card = (model / "README.md").read_text()
    for words in (
        "license: mit\nlicense_link: there\n",
        f"| {TASK} | 12 | 1 | 50.0 [",
        "sft - start, paired: +50.0",
        "| correct | 30 | 30 | 30 |",
        "Deviations from the paper",
        "- A line after the problem: `Box it.`\n",
        "`license: mit`",
    ):
        assert words in card, words
    assert sha256_of(model) == before


def test_a_model_goes_to_the_hub_privately_or_says_why_not(tmp_path, monkeypatch):
    import huggingface_hub

    called = []

    class Api:
        def create_repo(self, repo, **kwargs):
            called.append((repo, kwargs))
            return f"https://hub/{repo}"

        def upload_folder(self, **kwargs):
            called.append(kwargs)
            if kwargs["repo_id"] == "me/full":
                raise OSError("no space\nleft")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UserError, match="stages.sft.push_to_hub: no Hugging Face token; run"):
        hub.upload_model(tmp_path, "me/x", "stages.sft.push_to_hub")
    assert not called
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    assert hub.upload_model(tmp_path, "me/x", "key") == "https://hub/me/x"
    assert called[0] == ("me/x", {"private": True, "exist_ok": True})
    assert called[1]["folder_path"] == str(tmp_path)
    with pytest.raises(UserError, match="^key: me/full: no space$"):
        hub.upload_model(tmp_path, "me/full", "key")

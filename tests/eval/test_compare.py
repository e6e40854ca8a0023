"""Test comparisons by the command line: numbers by hand, published tables, mistakes."""

import json
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT

from custom_components.config import UserError
from custom_components.io import write_json, write_jsonl
from custom_components.report.chain_report import build_report, write_report
from eval.compare import compare, holm, main, named_logs
from eval.logs import Logged, read_logs
from eval.published import published_figures, published_tables
from eval.results import problem_row, summary
from eval.scoring import problem_metrics


def row(name, verdicts, task="reasoning_math500"):
    samples = [
        {
            "verdict": v,
            "reason": "",
            "prediction": "1",
            "finish_reason": "stop",
            "truncated": False,
            "length": 9,
            "num_tokens": 4,
            "label": 0 if v == "correct" else 1,
        }
        for v in verdicts
    ]
    doc = {"task": task, "id": name, "problem": "?", "answer": "1", "difficulty": None}
    return {**doc, **problem_metrics(samples), "responses": ["\\boxed{1}"] * len(samples)}


def rows(right, total, start=0):
    return [
        row(f"p{i}", ["correct" if i - start < right else "incorrect"])
        for i in range(start, start + total)
    ]


def write(folder, name, problems, version=1, **protocol):
    task = problems[0]["task"]
    provenance = {"tasks": {task: {"version": version, "repeats": 1, **protocol}}}
    write_jsonl(folder / f"{name}.samples.jsonl", problems)
    results = {task: summary(problems)}
    write_json(
        folder / f"{name}.json", {"model": name, "provenance": provenance, "results": results}
    )


def run(*args):
    return subprocess.run(
        [sys.executable, "-m", "eval.compare", *map(str, args)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_a_pair_by_hand(tmp_path):
    """b wins 8 problems and loses 1: the exact two-sided p is 2 (1 + 9) / 2^9."""
    write(tmp_path, "a", rows(21, 40))
    # b is right on 1..29, a on 0..20: b loses p0 and wins 8
    write(tmp_path, "b", [row("p0", ["incorrect"]), *rows(28, 39, start=1)])
    done = run(
        tmp_path,
        "--json",
        tmp_path / "out.json",
        "--markdown",
        tmp_path / "out.md",
        "--list-problems",
    )
    assert done.returncode == 0, done.stderr
    [pair] = json.loads((tmp_path / "out.json").read_text())["reasoning_math500"]["pairs"]
    assert (pair["a"], pair["b"], pair["problems"]) == ("a", "b", 40)
    assert (pair["won"], pair["lost"], pair["tied"]) == (8, 1, 31)
    assert pair["difference"] == pytest.approx(7 / 40)
    assert pair["p"] == pytest.approx(20 / 512)
    assert pair["lost_ids"] == ["p0"] and pair["won_ids"] == [f"p{i}" for i in range(21, 29)]
    text = (tmp_path / "out.md").read_text()
    assert "| b - a | 40 | +17.5 [" in text and "| 0.039 | 8 | 1 | 31 |" in text
    assert "no significant difference" not in text
    assert "b lost against a: p0" in done.stdout


def test_equals_are_said_to_be(tmp_path):
    for name in "ab":
        write(tmp_path, name, rows(20, 40))
    done = run(f"x={tmp_path}/a.json", f"y={tmp_path}/b.json")
    assert "y - x" in done.stdout and "no significant difference" in done.stdout


def test_several_comparisons_are_adjusted():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    models = [
        Logged(n, {"t": rows(k, 40)}, {})
        for n, k in zip("abcde", (10, 12, 14, 16, 30), strict=True)
    ]
    pairs = compare(models)["t"]["pairs"]
    assert [(p["a"], p["b"]) for p in pairs] == [
        ("a", "b"),
        ("b", "c"),
        ("c", "d"),
        ("d", "e"),
        ("a", "e"),
    ]
    assert [p["p_holm"] for p in pairs] == pytest.approx(holm([p["p"] for p in pairs]))
    assert [(p["a"], p["b"]) for p in compare(models, [("b", "e")])["t"]["pairs"]] == [("b", "e")]


def test_what_differs_is_said(tmp_path):
    write(tmp_path, "a", rows(20, 40))
    write(tmp_path, "b", rows(20, 30, start=20), version=2)
    done = run(tmp_path)
    assert "warning: reasoning_math500: a and b differ in version: 1 and 2" in done.stdout
    assert "a lacks 10; b lacks 20" in done.stdout


def test_of_long_values_the_part_that_differs_is_shown(tmp_path):
    """The difference is on one line, though a prompt has several and looks like markup."""
    start = "[/INST] {{problem}}\nPlease reason step by step, and put your final answer "
    sampling = {"temperature": 0.6, "top_p": 0.95}
    write(
        tmp_path,
        "a",
        rows(2, 4),
        prompt=start + "within a box.",
        sampling=sampling | {"max_gen_toks": 32768},
    )
    write(
        tmp_path,
        "b",
        rows(2, 4),
        prompt=start + "in [/b].\n",
        sampling=sampling | {"max_gen_toks": 1024},
    )
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    said = [x.partition(" differ in ")[2] for x in done.stdout.splitlines() if "warning: " in x]
    assert said == [
        "sampling: max_gen_toks 32768 and 1024",
        'prompt: "...t your final answer within a box." and "...t your final answer in [/b].\\n"',
    ]


def test_what_the_logs_themselves_tell(tmp_path):
    """Other repeats, and other problems with the same ids, are found without provenance."""
    a, b = rows(2, 4), [row(f"p{i}", ["correct", "incorrect"]) for i in range(4)]
    b[1]["problem"], b[3]["answer"] = "another", "2"
    models = [Logged("a", {"t": a, "u": a}, {}), Logged("b", {"t": b}, {})]
    compared = compare(models)
    assert compared["t"]["warnings"] == [
        "t: a and b differ in repeats: 1 and 2",
        "t: a and b differ in the text or answer of 2 problems with the same id: p1, p3",
    ]
    assert compared["u"]["warnings"] == ["u: no result of b"] and not compared["u"]["pairs"]
    # 1 1 0 0 and four halves: differences -1/2 -1/2 1/2 1/2
    [pair] = compared["t"]["pairs"]
    assert (pair["won"], pair["lost"], pair["difference"], pair["p"]) == (2, 2, 0, 1)


def test_what_was_not_recorded_is_no_difference(tmp_path):
    """eval.rescore writes None for a setting that is not in lm_eval's logs."""
    nothing = {"temperature": None, "top_p": None, "max_gen_toks": None}
    write(tmp_path, "a", rows(2, 4), sampling={"temperature": 0.6}, prompt="{{problem}}")
    write(tmp_path, "b", rows(2, 4), None, sampling=nothing, prompt=None)
    assert compare(named_logs([str(tmp_path)]))["reasoning_math500"]["warnings"] == []


def test_a_variant_with_more_repeats_is_the_same_task(tmp_path):
    write(tmp_path, "a", rows(2, 4))
    more = [
        row(f"p{i}", ["correct", right], "reasoning_math500_x2")
        for i, right in enumerate(["correct", "incorrect", "incorrect", "incorrect"])
    ]
    write(tmp_path, "b", more, version=2)
    done = run(tmp_path, "--markdown", tmp_path / "t.md")
    text = (tmp_path / "t.md").read_text()
    # avg is 5/8; all problems have a right sample; the votes are one right and three ties.
    assert "| b | 4 | 62.5 [" in text and "| 100.0 | 62.5 (3) | 2 |" in text
    assert "differ in version: 1 and 2" in done.stdout
    assert "differ in repeats: 1 and 2" in done.stdout


def lm_eval_logs(folder, right, task="reasoning_tiny_addition", include=ROOT / "eval/tasks"):
    """Write lm_eval's logs for a model that knows the answers to the problems `right`."""
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    class Known(LM):
        def generate_until(self, requests, disable_tqdm=False):
            return [f"\\boxed{{{r.doc['answer'] if r.doc_id in right else 0}}}" for r in requests]

        def loglikelihood(self, requests):
            raise AssertionError

        loglikelihood_rolling = loglikelihood

    tracker = EvaluationTracker(output_path=str(folder))
    output = simple_evaluate(
        Known(),
        tasks=[task],
        limit=8,
        bootstrap_iters=0,
        log_samples=True,
        task_manager=TaskManager(include_path=str(include), include_defaults=False),
        evaluation_tracker=tracker,
    )
    samples = output.pop("samples")
    tracker.save_results_aggregated(results=output, samples=samples)
    tracker.save_results_samples(task, samples[task])
    return samples[task]


FOREIGN = """
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{q}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["."]}}
metric_list: [{{metric: {metric}, aggregation: {aggregation}, higher_is_better: true}}]
filter_list:
  - {{name: boxed, filter: [{{function: regex, regex_pattern: "boxed.(.+).$"}}, {{function: take_first}}]}}
  - {{name: raw, filter: [{{function: take_first}}]}}
"""


def test_a_task_of_lm_evals_own(tmp_path):
    """Its first filter counts; a is right on 0..2, b on 2..5: b wins 3, loses 2; p = 1."""
    write_jsonl(tmp_path / "q.jsonl", [{"q": f"{i}+1", "answer": f"{i + 1}"} for i in range(6)])
    (tmp_path / "tasks").mkdir()
    yaml_file = tmp_path / "tasks" / "sums.yaml"
    yaml_file.write_text(
        FOREIGN.format(data=tmp_path / "q.jsonl", metric="exact_match", aggregation="mean")
    )
    for name, right in (("a", range(3)), ("b", range(2, 6))):
        lm_eval_logs(tmp_path / name, set(right), "sums", tmp_path / "tasks")
    done = run(f"a={tmp_path}/a", f"b={tmp_path}/b", "--json", tmp_path / "j")
    assert done.returncode == 0, done.stderr
    assert "a's accuracy is exact_match of filter boxed, its problems are paired by doc_id" in (
        done.stdout
    )
    of_task = json.loads((tmp_path / "j").read_text())["sums"]
    assert [r["accuracy"] for r in of_task["results"].values()] == pytest.approx([3 / 6, 4 / 6])
    [pair] = of_task["pairs"]
    assert (pair["won_ids"], pair["lost_ids"], pair["p"]) == (["3", "4", "5"], ["0", "1"], 1)
    with pytest.raises(UserError, match="sums is not one of our tasks"):
        read_logs(tmp_path / "a")  # there is no response to score again

    yaml_file.write_text(
        FOREIGN.format(data=tmp_path / "q.jsonl", metric="bypass", aggregation="bypass")
    )
    lm_eval_logs(tmp_path / "c", set(), "sums", tmp_path / "tasks")
    done = run(tmp_path / "c")
    assert done.returncode == 2 and "has none of exact_match, acc" in done.stderr


def test_lm_evals_logs_beside_ours(tmp_path):
    """Its b is right on 1..7, a on 0 and 1: b wins 6, loses 1; p = 2 (1 + 7) / 2^7."""
    lm_eval_logs(tmp_path / "lm", {0, 1})
    of_b = lm_eval_logs(tmp_path / "b", set(range(1, 8)))
    ours = [problem_row("reasoning_tiny_addition", x) for x in of_b]
    write(tmp_path / "run", "ours", ours)
    done = run(
        f"a={tmp_path}/lm",
        f"b={tmp_path}/b",
        tmp_path / "run",
        "--json",
        tmp_path / "j",
        "--markdown",
        tmp_path / "m",
    )
    assert done.returncode == 0, done.stderr
    of_task = json.loads((tmp_path / "j").read_text())["reasoning_tiny_addition"]
    assert of_task["results"]["b"] == of_task["results"]["ours"]
    assert "a and ours differ in version: 2 and 1" in done.stdout  # as in lm_eval's results file
    ab, a_ours, b_ours = of_task["pairs"]
    assert (ab["won"], ab["lost"], ab["tied"]) == (6, 1, 1)
    assert ab["p"] == pytest.approx(16 / 128) and ab["p_holm"] == pytest.approx(3 * 16 / 128)
    assert ab["difference"] == pytest.approx(5 / 8) and ab["lost_ids"] == [ours[0]["id"]]
    assert (a_ours["won"], a_ours["p"], b_ours["tied"], b_ours["p"]) == (6, ab["p"], 8, 1)
    # lm_eval's own models count no tokens, so characters are shown; "\\boxed{0}" has 8.
    characters = sum(7 + len(x["answer"]) + 1 if i in (0, 1) else 9 for i, x in enumerate(ours)) / 8
    line = next(x for x in (tmp_path / "m").read_text().splitlines() if x.startswith("| a |"))
    assert line.endswith(f"|  | {characters:.0f} |")


def test_published_tables():
    ours = {
        "start": {"reasoning_math500": summary(rows(36, 50))},
        "grpo": {"reasoning_aime24": summary(rows(2, 30))},
    }
    ablation, main = published_tables(ours)
    assert ablation["columns"] == [
        "",
        "AIME 2024",
        "AIME 2024, ours",
        "MATH-500",
        "MATH-500, ours",
        "GPQA-D",
    ]
    assert ablation["rows"][0][3] == "71.8" and ablation["rows"][0][4].startswith("72.0 [")
    assert "outside" not in ablation["rows"][0][4]
    assert ablation["rows"][-1][1] == "57.5" and ablation["rows"][-1][2].endswith(
        ", published outside"
    )
    assert len(main["rows"]) == 11
    assert ["31.77" in r for r in main["rows"]].count(True) == 1  # digits as published


def test_every_row_of_the_paper_has_a_run_of_ours():
    """Names of the stages and models in configs/phi4_mini are those of the published rows."""
    names = set()
    for file in ("chain", "naive_sft"):
        chain = yaml.safe_load((ROOT / f"configs/phi4_mini/{file}.yaml").read_text())
        names |= {stage["name"] for stage in chain["stages"]}
    names |= set(yaml.safe_load((ROOT / "configs/phi4_mini/baselines.yaml").read_text())["models"])
    stages = {line["stage"] for table in published_figures().values() for line in table}
    assert stages - names == {"o1_mini"}  # its rows are not public


def test_published_says_whom_it_looks_for(tmp_path, capsys):
    write(tmp_path, "a", rows(20, 40))
    assert main([str(tmp_path), "--published"]) == 0
    assert "--published: no model has a row's name" in capsys.readouterr().out
    assert main([f"grpo={tmp_path}", "--published"]) == 0
    assert "--published: no" not in capsys.readouterr().out
    write(tmp_path / "b", "grpo", [row("p0", ["correct"], "other")])
    assert main([str(tmp_path / "b"), "--published"]) == 0
    assert "--published: the paper has no figure" in capsys.readouterr().out


def test_no_output_takes_the_place_of_an_evaluation(tmp_path, capsys):
    for name in "ab":
        write(tmp_path / name, name, rows(20, 40))
    for option in ("--json", "--markdown"):
        for target in ("a", "a/a.json"):
            assert main([option, str(tmp_path / target), str(tmp_path / "b")]) == 2
            assert capsys.readouterr().err.startswith(f"error: {option} ")
    [model] = named_logs([str(tmp_path / "a")])
    assert len(model.tasks["reasoning_math500"]) == 40


def test_a_path_may_hold_an_equals_sign(tmp_path):
    write(tmp_path / "lr=1", "a", rows(1, 2))
    assert [m.name for m in named_logs([f"{tmp_path}/lr=1", f"b={tmp_path}/lr=1"])] == ["a", "b"]


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("x.samples.jsonl", '{"id": "p0"}', "x.samples.jsonl, line 1: no 'task'"),
        ("x.json", '{"model":', "x.json is not a JSON object with 'provenance'"),
        ("x.json", "[]", "x.json is not a JSON object with 'provenance'"),
    ],
)
def test_a_broken_file_is_named(tmp_path, capsys, file, text, words):
    write(tmp_path, "x", rows(1, 2))
    (tmp_path / file).write_text(text)
    assert main([str(tmp_path)]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("problems", "words"),
    [
        ([row("p0", ["correct"]), row("p0", ["incorrect"])], "problem 'p0' is there twice"),
        ([row("p0", ["correct"]), row("p1", ["correct"] * 2)], "'p1' has 2 samples, 'p0' has 1"),
        ([], "x has no problem"),
    ],
)
def test_a_log_that_is_not_whole_is_named(tmp_path, capsys, problems, words):
    write(tmp_path, "x", rows(1, 2))
    write_jsonl(tmp_path / "x.samples.jsonl", problems)
    assert main([str(tmp_path)]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["{}/empty"], "holds neither"),
        (["{}", "{}"], "two models are called a; give names"),
        (["x={}"], "holds a, b; name one: x="),
        (["{}", "--pair", "a:c"], "--pair: no model 'c' among a, b"),
        (["{}", "--pair", "ab"], "--pair takes A:B, not 'ab'"),
        (["{}", "--task", "gsm8k"], "no model has 'gsm8k'; there are reasoning_math500"),
        (["{}/a.json", "{}/other/c.json"], "a and c have no problem in common"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, args, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    for name in "ab":
        write(tmp_path, name, rows(20, 40))
    write(tmp_path / "other", "c", rows(1, 2, start=90))
    done = run(*(a.format(tmp_path) for a in args))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_chains_report_shows_the_papers_table(tmp_path):
    stages = [{"name": n, "label": n, "evaluate": True} for n in ("start", "grpo")]
    for name, right in (("start", 30), ("grpo", 38)):
        (tmp_path / "eval" / name).mkdir(parents=True)
        write(tmp_path / "eval" / name, name, rows(right, 40))
    report = build_report(tmp_path, "reasoning_math500", stages)
    assert [t["title"] for t in report["published"]] == [
        "Ablation: published, ours",
        "Main table: published, ours",
    ]
    page = write_report(tmp_path, report, stages).read_text()
    assert "<td>95.0 [83.1, 99.4]</td>" in page and "<td>94.6</td>" in page
    assert report["paired"][0]["won"] == 8

"""Make a chain's folder as its recipes leave it, by hand and in milliseconds."""

import json

from custom_components.io import write_json, write_jsonl
from eval.results import summary
from eval.scoring import problem_metrics

TASK = "reasoning_tiny_addition"
HOSTILE = '</script><script>document.title="owned"</script><!-- <img src=x onerror=alert(1)> \u2028 \ud800 <think>'
STAGES = [
    {"name": name, "label": f"+ {name}", "evaluate": name != "curate"}
    for name in ("start", "curate", "sft", "grpo")
]


def problem(i, verdicts, text="\\boxed{1}", finish="stop"):
    """Return a row of an evaluation's samples."""
    samples = [
        {
            "verdict": v,
            "reason": "not_equal",
            "prediction": "1",
            "finish_reason": finish,
            "truncated": False,
            "length": len(text),
            "num_tokens": 5 + i,
            "label": int(v != "correct"),
        }
        for v in verdicts
    ]
    doc = {
        "task": TASK,
        "id": f"p{i}",
        "problem": f"{i}+1=?",
        "answer": str(i + 1),
        "difficulty": ("easy", "hard")[i % 2],
        "choices": None,
    }
    return {**doc, **problem_metrics(samples), "responses": [text] * len(samples)}


def evaluation(run_dir, name, rows):
    folder = run_dir / "eval" / name
    folder.mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)  # with escapes for lone surrogates
    (folder / f"{name}.samples.jsonl").write_text(lines)
    write_json(
        folder / f"{name}.json", {"model": name, "provenance": {}, "results": {TASK: summary(rows)}}
    )
    stage(run_dir, f"eval/{name}", "evaluate")


def stage(run_dir, name, recipe, status="complete", **more):
    folder = run_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "recipe": recipe,
        "status": status,
        "inputs": {"x": "0" * 64},
        "outputs": {},
        "counts": {"steps": 3},
        "seed": 0,
        "git_commit": "abc",
        "packages": {"torch": "2"},
        "device": "1 x cpu",
        "started": "2026-01-01T00:00:00+0000",
        "wall_seconds": 1.5,
        "config": {"checkpointer": {"checkpoint_dir": str(run_dir / "start/model")}},
        **more,
    }
    write_json(folder / "manifest.json", manifest)
    return folder


def small_chain(run_dir, problems=12):
    """Make a chain: start solves nothing, sft the even problems, grpo all but two.

    The response to p3 is hostile.
    """
    stage(run_dir, "start", "start", config={"source": {}})
    yields = [
        {"name": n, "rollouts": r, "problems": r, "length": r}
        for n, r in (("rollouts", 40), ("correct", 30))
    ]
    curate = stage(
        run_dir, "curate", "curate", config={}, counts={"yields": yields, "length_unit": "tokens"}
    )
    write_jsonl(curate / "removed.jsonl", [{"id": "a", "reason": "ngram"}] * 2)
    write_jsonl(curate / "rejects.jsonl", [{"where": "x", "reason": "no answer"}])
    for name, right in (
        ("start", lambda i: False),
        ("sft", lambda i: i % 2 == 0),
        ("grpo", lambda i: i > 1),
    ):
        rows = [
            problem(
                i,
                ["correct" if right(i) else "incorrect"],
                HOSTILE if i == 3 else f"{name} says {i}",
            )
            for i in range(problems)
        ]
        evaluation(run_dir, name, rows)
    sft = stage(run_dir, "sft", "sft")
    rows = [{"step": i, "loss": 1 / i, "lr": 1e-5, "grad_norm": None} for i in range(1, 4)]
    write_jsonl(sft / "metrics.jsonl", rows)
    grpo = stage(run_dir, "grpo", "grpo")
    write_jsonl(
        grpo / "metrics.jsonl",
        [{"step": i, "reward": 0.1 * i, "entropy": 0.5} for i in range(1, 4)],
    )
    write_jsonl(grpo / "alarms.jsonl", [{"step": 2, "alarm": "the entropy has collapsed"}])
    write_jsonl(
        grpo / "samples.jsonl",
        [
            {
                "step": i,
                "problem": "1+1=?",
                "answer": "2",
                "response": f"training {i}",
                "verdict": "correct",
                "advantage": 0.5,
            }
            for i in range(1, 4)
        ],
    )
    return run_dir

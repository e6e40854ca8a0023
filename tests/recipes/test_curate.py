"""Test curation by the real `tune run`: ranks and kills do not change the files."""

import json
import random
import shutil

import pytest
from conftest import TUNE, kill_in_chunk, recipe

from custom_components.data.rows import read_rows
from custom_components.verifier import VerifierPool
from recipes.curate import verify_chunk

SPLITS = ("midtrain", "sft", "pairs", "prompts")


def rollouts(path, problems=60, each=6, seed=0):
    """Write rollouts of small sums, some wrong, some labelled, in random order."""
    rng, rows = random.Random(seed), []
    for i in range(problems):
        a, b = rng.randint(10, 99), rng.randint(10, 99)
        for n in range(each):
            said = a + b if rng.random() < 0.6 else a + b + 1
            label = None if n % 2 else "correct" if said == a + b else "incorrect"
            rows.append(
                {
                    "id": f"{i}-{n}",
                    "problem": f"Ann has {a} pens and buys {b}, in shop {i}. How many?",
                    "answer": a + b,
                    "response": f"<think>{a} and {b}, {'so ' * n}</think>\\boxed{{{said}}}",
                    "label": label,
                }
            )
    rng.shuffle(rows)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return f"sources=[{{_component_: custom_components.data.sources.jsonl, path: {path}, correct: label}}]"


def splits(folder):
    return {name: list(read_rows(folder / f"{name}.parquet")) for name in SPLITS}


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curated")
    source = rollouts(folder / "rows.jsonl")
    options = [source, "chunk_rows=40", "verifier.workers=1", "near_duplicates=0.7"]
    recipe("curate", *options, f"output_dir={folder / 'one'}")
    return folder, options


def test_two_ranks_make_what_one_makes(curated):
    folder, options = curated
    recipe("curate", *options, f"output_dir={folder / 'two'}", launch=("--nproc_per_node", "2"))
    assert splits(folder / "two") == splits(folder / "one")
    names = sorted(p.name for p in (folder / "one").iterdir())
    assert sorted(p.name for p in (folder / "two").iterdir()) == names
    assert names == [
        "README.md",
        "manifest.json",
        "midtrain.parquet",
        "pairs.parquet",
        "prompts.parquet",
        "rejects",
        "removed.jsonl",
        "sft.parquet",
        "verified",
    ]


def test_killed_and_continued_is_the_same(curated):
    folder, options = curated
    command = [
        TUNE,
        "run",
        "recipes/curate.py",
        "--config",
        "configs/tiny/curate.yaml",
        *options,
        f"output_dir={folder / 'killed'}",
    ]
    kill_in_chunk(command, folder / "killed" / "verified", 3)
    times = {p: p.stat().st_mtime_ns for p in (folder / "killed" / "verified").glob("*.parquet")}
    recipe("curate", *options, f"output_dir={folder / 'killed'}")
    assert all(p.stat().st_mtime_ns == t for p, t in times.items())  # no chunk is written twice
    assert splits(folder / "killed") == splits(folder / "one")


def test_labels_that_a_source_gives_are_checked_or_trusted(curated):
    folder, options = curated
    counts = json.loads((folder / "one" / "manifest.json").read_text())["counts"]
    assert (counts["given_verdicts"], counts["given_verdicts_agreeing"]) == (180, 180)
    wrong = folder / "wrong.jsonl"
    lines = [json.loads(x) for x in (folder / "rows.jsonl").read_text().splitlines()]
    for line in lines:
        line["label"] = line["label"] and "correct"
    wrong.write_text("".join(json.dumps(x) + "\n" for x in lines))
    source = options[0].replace("rows.jsonl", "wrong.jsonl")
    recipe("curate", source, *options[1:], f"output_dir={folder / 'trust'}", "given_verdicts=trust")
    rows = list(read_rows(folder / "trust" / "verified"))
    assert sum(r["reason"] == "given" for r in rows) == 180
    assert all(r["verdict"] == "correct" for r in rows if r["reason"] == "given")


def test_evaluation_problems_and_near_duplicates_are_taken_out_and_named(tmp_path):
    problem = "Ben walks 12 miles on Monday and twice as far on Tuesday, then he rests. How far did he walk?"
    rows = [
        ("a", problem),
        ("b", problem.replace("then he", "and then")),
        ("c", "What is 17 times 3?"),
        ("d", "A farmer has 15 cows and sells 4 of them. How many cows are left?"),
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(
            json.dumps({"id": i, "problem": p, "answer": "1", "response": "\\boxed{1}"}) + "\n"
            for i, p in rows
        )
    )
    (tmp_path / "eval.jsonl").write_text(json.dumps({"problem": "what is $17$ times  3 ?"}) + "\n")
    recipe(
        "curate",
        f"output_dir={tmp_path / 'out'}",
        "near_duplicates=0.6",
        "verifier.workers=1",
        f"decontamination.sets=[{tmp_path / 'eval.jsonl'}]",
        f"sources=[{{_component_: custom_components.data.sources.jsonl, path: {path}}}]",
    )
    removed = [json.loads(x) for x in (tmp_path / "out" / "removed.jsonl").read_text().splitlines()]
    assert [(r["id"], r["reason"]) for r in removed] == [("b", "near_duplicate"), ("c", "exact")]
    assert removed[0]["of"] == "a" and removed[1]["evaluation_set"].endswith("eval.jsonl")
    left = [r["id"] for r in splits(tmp_path / "out")["prompts"]]
    assert left == ["a", "d"]


def test_an_expression_copied_from_the_problem_is_not_an_answer():
    texts = [r"\boxed{x^2-1}", r"\boxed{(x+1)(x-1)}"]
    rows = [
        {
            "problem": "Factor $x^2-1$.",
            "answer": "(x-1)(x+1)",
            "response": text,
            "finish_reason": "stop",
            "num_tokens": 9,
        }
        for text in texts
    ]
    with VerifierPool(1) as pool:
        verify_chunk(rows, False, pool)
    assert [row["reason"] for row in rows] == ["copied_from_problem", "equal"]


def test_unreadable_shards_are_named_and_good_rows_kept(tmp_path, small_run):
    shutil.copytree(small_run / "rollout", tmp_path / "rollout")
    shards = sorted((tmp_path / "rollout" / "rollouts").glob("*.parquet"))
    shards[1].write_bytes(shards[1].read_bytes()[:-200])
    options = [
        f"output_dir={tmp_path / 'out'}",
        "chunk_rows=50",
        f"sources=[{{_component_: custom_components.data.sources.rollouts, path: {tmp_path / 'rollout'}}}]",
    ]
    done = recipe("curate", *options, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    [line] = [x for x in done.stderr.splitlines() if x.startswith("error:")]
    assert "1 files cannot be read" in line and shards[1].name in line
    kept = list((tmp_path / "out" / "verified").glob("*.parquet"))
    assert kept
    times = [p.stat().st_mtime_ns for p in kept]
    recipe("curate", *options, "max_lost_files=1")
    assert [p.stat().st_mtime_ns for p in kept] == times
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert counts["rejected"] == 1 and counts["rollouts"] == 4 * 80

"""Test recipes/rollout.py by `tune run` against an endpoint: kills, failures, oversampling."""

import json
import subprocess
import time
from collections import Counter

import pytest
from conftest import ROOT, TUNE, recipe
from fake_endpoint import FakeEndpoint, completion

from custom_components.data.column_addition import PROBLEM, column_addition
from custom_components.data.rows import read_rows
from custom_components.data.sources import rollouts
from custom_components.io import Journal
from custom_components.verifier import verify

COUNTS = {1: 10, 2: 30, 3: 0, 4: 0}
QUESTIONS = [row["problem"] for row in column_addition("distill", COUNTS, seed=0)]


def overrides(server, folder, *more, **engine):
    """Return overrides: the tiny track's problems, 3 responses each, shards of 25 and 15."""
    node = {
        "_component_": "custom_components.engines.server_engine.ServerEngine",
        "url": server.url,
        "model": "teacher",
        "concurrency": 4,
        "attempts": 1,
        "timeout": 60,
        **engine,
    }
    return [
        f"output_dir={folder}",
        f"problems.counts={COUNTS}",
        "tokenizer=null",
        "samples_per_problem=3",
        "problems_per_shard=25",
        f"engine={json.dumps(node)}",
        *more,
    ]


def solution(question, number, right=True):
    """Return a response that no other request gets."""
    a, b = map(int, PROBLEM.search(question).groups())
    return completion(
        f"Number {number}: \\boxed{{{a + b + (not right)}}}", reasoning_content="so it is"
    )


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def rows_of(folder):
    rows = list(rollouts(str(folder)))
    assert len({row["response"] for row in rows}) == len(rows)  # no row is there twice
    return rows


def leftovers(folder):
    return [p.name for p in (folder / "rollouts").iterdir() if p.name.startswith(".")]


def error_of(done):
    """Return the one error line of a run that ended with status 2."""
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    [line] = [x for x in done.stderr.splitlines() if "error:" in x]
    assert line.startswith("error: ")
    return line


def test_killed_and_continued_asks_only_for_the_missing(tmp_path):
    def reply(question, number):
        time.sleep(0.02)
        return solution(question, number)

    with FakeEndpoint(reply) as server:
        args = overrides(server, tmp_path)
        command = [TUNE, "run", "recipes/rollout.py", "--config", "configs/tiny/rollout.yaml"]
        process = subprocess.Popen(
            [*command, *args], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while len(server.requests) < 40 and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -9
        time.sleep(0.2)
        journal = Journal(tmp_path / "rollouts" / ".spool-00000.jsonl")
        kept = [QUESTIONS[entry["problem"]] for entry in journal.read()]
        assert 8 <= len(kept) < 25
        with open(journal.path, "a") as f:
            f.write('{"round": 0, "prob')  # the line that was being written
        server.requests.clear()
        recipe("rollout", *args)
        missing = [q for q in QUESTIONS if q not in kept]
        assert server.asked() == dict.fromkeys(missing, 3)
        assert "already complete" in recipe("rollout", *args).stdout
    rows = rows_of(tmp_path)
    assert [row["problem"] for row in rows] == [q for q in QUESTIONS for _ in range(3)]
    assert {row["model"] for row in rows} == {"teacher"}
    assert all(row["response"].startswith("<think>\nso it is\n</think>\n\nNumber ") for row in rows)
    assert leftovers(tmp_path) == []
    counts = manifest(tmp_path)["counts"]
    assert counts == {"rollouts": 120, "tokens": 600, "truncated": 0, "problems": 40, "rejected": 0}


def test_failures_above_the_share_end_the_run_and_it_continues(tmp_path):
    bad = QUESTIONS[3:6]
    fixed = []

    def reply(question, number):
        return 500 if question in bad and question not in fixed else solution(question, number)

    with FakeEndpoint(reply) as server:
        args = overrides(server, tmp_path, "max_reject_share=0.05", requests_per_minute=60000)
        line = error_of(recipe("rollout", *args, check=False))
        assert "3 of 25 problems of shard 00000 failed" in line
        assert "HTTP 500" in line and "the same command asks for them again" in line
        assert not (tmp_path / "rollouts" / "00000.parquet").exists()
        assert set(server.asked()) == set(QUESTIONS[:25])
        fixed += bad[:2]
        server.requests.clear()
        # The limit of failures may change. With two ranks the other shard is sampled, too.
        recipe(
            "rollout",
            *overrides(server, tmp_path, "max_reject_share=0.04"),
            launch=("--nproc_per_node", "2"),
        )
        asked = server.asked()
        assert 1 <= asked.pop(bad[2]) <= 3
        assert asked == dict.fromkeys([*fixed, *QUESTIONS[25:]], 3)
    counted = Counter(row["problem"] for row in rows_of(tmp_path))
    assert counted == dict.fromkeys([q for q in QUESTIONS if q != bad[2]], 3)
    [reject] = map(json.loads, (tmp_path / "rejects.jsonl").read_text().splitlines())
    a, b = PROBLEM.search(bad[2]).groups()
    assert reject["where"] == f"problem add-{a}-{b}"
    assert reject["reason"].startswith("round 0: http") and "HTTP 500" in reject["reason"]
    counts = manifest(tmp_path)["counts"]
    assert (counts["problems"], counts["rejected"], counts["rollouts"]) == (40, 1, 117)
    assert leftovers(tmp_path) == []


def test_an_endpoint_that_goes_away_and_a_limit_of_cost(tmp_path):
    with FakeEndpoint(solution) as server:
        prices = {"price_in": 1000, "price_out": 2000}  # 0.02 a response
        args = overrides(server, tmp_path, max_cost=0.7, **prices)
        line = error_of(recipe("rollout", *args, check=False))
        assert "which reaches engine.max_cost=0.7; the same command with a higher" in line
        asked = len(server.requests)
        assert 35 <= asked <= 39
        # The cost of earlier runs counts.
        line = error_of(recipe("rollout", *args, check=False))
        assert len(server.requests) - asked <= 8
        server.close()
        line = error_of(recipe("rollout", *overrides(server, tmp_path), check=False))
        assert "the endpoint is gone: 5 problems in a row failed" in line
    with FakeEndpoint(solution) as server:
        recipe("rollout", *overrides(server, tmp_path, max_cost=10, **prices))
        assert len(server.requests) < 90
    rows = list(rollouts(str(tmp_path)))
    assert Counter(row["problem"] for row in rows) == dict.fromkeys(QUESTIONS, 3)
    assert manifest(tmp_path)["counts"]["cost"] == pytest.approx(120 * 0.02)


def test_oversampling_goes_on_until_one_is_right(tmp_path):
    """Of 40 problems two are solved by the 5th response and one by none; 3 in a round, 8 in all."""
    late, never = QUESTIONS[:2], QUESTIONS[2]
    asked = Counter()

    def reply(question, number):
        asked[question] += 1
        right = question != never and (question not in late or asked[question] >= 5)
        return solution(question, number, right)

    with FakeEndpoint(reply) as server:
        args = overrides(server, tmp_path, "oversample={max_samples: 8, workers: 1}", concurrency=1)
        done = recipe("rollout", *args)
    assert asked == dict.fromkeys(QUESTIONS, 3) | dict.fromkeys(late, 6) | {never: 8}
    assert "tokens/s=" in done.stderr and "yield=97.5%" in done.stderr
    rows = rows_of(tmp_path)
    assert Counter(row["problem"] for row in rows) == asked
    seeds = [json.loads(row["sampling"])["seed"] for row in rows if row["problem"] == never]
    assert [seeds.count(s) for s in dict.fromkeys(seeds)] == [3, 3, 2]
    counts = manifest(tmp_path)["counts"]
    assert (counts["oversampled"], counts["solved_by_oversampling"]) == (3, 2)


def test_oversampled_rows_are_the_same_however_they_came(tmp_path):
    """The addition teacher samples at once, and on two ranks from a file with half the replies."""
    recipe("start", f"run_dir={tmp_path}")
    args = [
        f"run_dir={tmp_path}",
        f"problems.counts={COUNTS}",
        "samples_per_problem=2",
        "problems_per_shard=25",
        "engine.slip=0.4",
        "oversample={max_samples: 7, workers: 1}",
    ]
    recipe("rollout", f"output_dir={tmp_path}/whole", *args)
    whole = list(rollouts(str(tmp_path / "whole")))
    counts = manifest(tmp_path / "whole")["counts"]
    assert counts["oversampled"] > counts["solved_by_oversampling"] > 0
    by_problem: dict[str, list] = {}
    for row in whole:
        by_problem.setdefault(row["problem"], []).append(row)
    right = {
        q: [
            verify(r["answer"], r["response"], truncated=r["finish_reason"] == "length").verdict
            == "correct"
            for r in rows
        ]
        for q, rows in by_problem.items()
    }
    assert all(
        any(r[-1 if len(r) == 7 else -2 :])
        and not any(r[: -1 if len(r) == 7 else -2])
        or (len(r) == 7 and not any(r))
        for r in right.values()
    )
    # The run was killed when one problem had the replies of two rounds.
    first = by_problem[next(q for q in QUESTIONS[:25] if len(by_problem[q]) > 2)]
    part = tmp_path / "part"
    (part / "rollouts").mkdir(parents=True)
    state = manifest(tmp_path / "whole") | {"status": "running", "outputs": {}}
    state["config"]["output_dir"] = str(part)
    (part / "manifest.json").write_text(json.dumps(state))
    entries = [
        {
            "round": k,
            "problem": QUESTIONS.index(first[0]["problem"]),
            "replies": [
                {
                    "text": r["response"],
                    "num_tokens": r["num_tokens"],
                    "finish_reason": r["finish_reason"],
                    "cost": 0.0,
                }
                for r in first[2 * k : 2 * k + 2]
            ],
        }
        for k in range(2)
    ]
    lines = "".join(json.dumps(e) + "\n" for e in entries)
    (part / "rollouts" / ".spool-00000.jsonl").write_text(lines)
    recipe("rollout", f"output_dir={part}", *args, launch=("--nproc_per_node", "2"))
    for name in ("00000", "00001"):
        a, b = (
            list(read_rows(tmp_path / d / "rollouts" / f"{name}.parquet"))
            for d in ("whole", "part")
        )
        assert a == b
    assert manifest(part)["counts"] == counts

"""Check that one pair has one verdict: as training data, as a reward, and as a benchmark's score."""

import json

from conftest import recipe

from custom_components.data.rows import read_rows
from custom_components.engines.engine import Completion
from custom_components.rl.groups import Group, Sample
from custom_components.rl.sampler import verify_groups
from custom_components.verifier import VerifierPool
from eval.scoring import Response, score

CASES = [
    ("\\frac{1}{2}", "<think>a half</think>\\boxed{0.5}", "stop"),
    ("\\frac{1}{2}", "<think>a half</think>\\boxed{\\frac{2}{4}}", "stop"),
    ("7", "<think>\\boxed{7}", "length"),
    ("7", "<think>\\boxed{7}</think>", "stop"),
    ("7", "<think>x</think>\\boxed{7}", "length"),
    ("7", "<think>x</think>\\boxed{6} no: \\boxed{7}", "stop"),
    ("7", "<think>x</think>\\boxed{6} or \\boxed{7}", "stop"),
    ("7", "The answer is 7.", "stop"),
    ("1,000", "<think>x</think>\\boxed{1000}", "stop"),
    ("(1,2)", "<think>x</think>\\boxed{(2,1)}", "stop"),
    ("\\frac{", "<think>x</think>\\boxed{2}", "stop"),
    ("x=3", "<think>x</think>\\boxed{3}", "stop"),
    ("50\\%", "<think>x</think>\\boxed{0.5}", "stop"),
    ("9", "<think>x</think>\\boxed{9^{9^{9^9}}}", "stop"),
]


def test_curate_reward_and_evaluation_agree(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(
            json.dumps({"problem": f"p{i}", "answer": g, "response": r, "finish_reason": f}) + "\n"
            for i, (g, r, f) in enumerate(CASES)
        )
    )
    source = f"sources=[{{_component_: custom_components.data.sources.jsonl, path: {path}}}]"
    recipe("curate", source, f"output_dir={tmp_path / 'out'}")
    labelled = [r["verdict"] for r in read_rows(tmp_path / "out" / "verified")]

    groups = [Group({"answer": g}, [], [Sample([], Completion([], [], f), r)]) for g, r, f in CASES]
    with VerifierPool(1) as pool:
        verify_groups(groups, pool)
    rewarded = [g.samples[0].verdict for g in groups]

    scored = [score({"answer": g}, [Response.of(r, f)]) for g, r, f in CASES]
    named = [
        "correct" if s["accuracy"] else "undecided" if s["undecided"] else "incorrect"
        for s in scored
    ]
    assert labelled == rewarded == named
    assert set(labelled) == {"correct", "incorrect", "undecided"}

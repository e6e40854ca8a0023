import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SMALL
from tiny_models import FAMILIES


def five_steps(name, prepared, small_run, folder, ranks, limit, *overrides):
    output = folder / f"{name}-{ranks}-{limit}.pt"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            str(ranks),
            "tests/training/gradients.py",
            name,
            f"configs/tiny/{name}.yaml",
            str(small_run / name / prepared),
            str(output),
            f"run_dir={small_run}",
            f"output_dir={folder / output.stem}",
            *SMALL[name],
            f"max_tokens_per_micro_batch={limit}",
            *overrides,
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=900,
    )
    return torch.load(output, weights_only=True)


def relative_gap(a, b):
    assert a.keys() == b.keys()
    gap = torch.cat([(a[k] - b[k]).flatten() for k in a]).norm()
    return gap / torch.cat([x.flatten() for x in a.values()]).norm()


@pytest.mark.parametrize(
    ("name", "prepared", "limit"),
    [("midtrain", "packs", 600), ("sft", "examples", 60), ("dpo", "examples", 150)],
)
def test_neither_ranks_nor_micro_batches_change_a_step(small_run, tmp_path, name, prepared, limit):
    """Compare one micro-batch of all rows, several of few rows, and several on two ranks."""
    whole = five_steps(name, prepared, small_run, tmp_path, 1, 100_000)
    cut = five_steps(name, prepared, small_run, tmp_path, 1, limit)
    ranks = five_steps(name, prepared, small_run, tmp_path, 2, limit)
    assert whole["parts"] == 1 and cut["parts"] > 1 and ranks["parts"] > 1
    for other in (cut, ranks):
        gradients = relative_gap(whole["gradients"], other["gradients"])
        weights = relative_gap(whole["weights"], other["weights"])
        print(f"{name}: gradients {gradients:.1e}, weights after five steps {weights:.1e}")
        assert gradients <= 1e-6
        assert weights <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_5", "r1_distill_qwen", "gemma3"])
def test_ranks_do_not_change_a_step_of_any_family(small_run, tmp_path, family, record_property):
    """Train biases, an output layer of its own, and Gemma's norms, on one rank and on two."""
    start = tmp_path / "start"
    FAMILIES[family].save_with_tokenizer(start)
    overrides = [
        f"checkpointer.checkpoint_dir={start}",
        f"tokenizer.path={start}",
        f"model={{_component_: custom_components.models.hf.from_folder, path: {start}}}",
    ]
    for name, prepared, limit in ("midtrain", "packs", 600), ("dpo", "examples", 150):
        one, two = (
            five_steps(name, prepared, small_run, tmp_path, ranks, limit, *overrides)
            for ranks in (1, 2)
        )
        gradients = relative_gap(one["gradients"], two["gradients"])
        record_property(f"{name}_ranks", gradients.item())
        assert gradients <= 1e-6
        assert relative_gap(one["weights"], two["weights"]) <= 1e-5

import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SMALL


def gradients(name, prepared, small_run, folder, ranks, *overrides):
    output = folder / f"{name}-{ranks}.pt"
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks),
         "tests/training/gradients.py", name, f"configs/tiny/{name}.yaml",
         str(small_run / name / prepared), str(output), f"run_dir={small_run}",
         f"output_dir={folder / str(ranks)}", *SMALL[name], *overrides],
        cwd=ROOT, check=True, capture_output=True, timeout=900,
    )  # fmt: skip
    return torch.load(output, weights_only=True)


@pytest.mark.parametrize(
    ("name", "prepared"), [("midtrain", "packs"), ("sft", "examples"), ("dpo", "examples")]
)
def test_gradients_before_the_optimizer_do_not_depend_on_the_ranks(
    small_run, tmp_path, name, prepared
):
    one = gradients(name, prepared, small_run, tmp_path, 1)
    # two ranks, and each in several micro-batches
    two = gradients(
        name, prepared, small_run, tmp_path, 2, "max_tokens_per_micro_batch=600"
        if name == "midtrain" else "max_tokens_per_micro_batch=150",
    )  # fmt: skip
    assert one.keys() == two.keys()
    norm = torch.cat([g.flatten() for g in one.values()]).norm()
    gap = torch.cat([(one[k] - two[k]).flatten() for k in one]).norm()
    print(f"{name}: relative gap {gap / norm:.1e}")
    assert gap <= 1e-6 * norm

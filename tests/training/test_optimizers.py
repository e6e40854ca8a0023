"""Use optimizers and metric loggers that a config names, through the real recipe."""

import json

import pytest
import torch
from conftest import SMALL, recipe, reopen
from safetensors.torch import load_file

EIGHT_BIT = "optimizer={_component_: torchao.optim.AdamW8bit, lr: 1e-3, block_size: 64}"


def rows(folder):
    return [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_eight_bit_adamw_resumes_exactly_and_shards(small_run, tmp_path):
    common = [f"run_dir={small_run}", *SMALL["sft"], EIGHT_BIT]
    recipe("sft", f"output_dir={tmp_path / 'one'}", *common)
    before, weights = rows(tmp_path / "one"), tmp_path / "one" / "model" / "model.safetensors"
    first = load_file(weights)
    reopen(tmp_path / "one")
    done = recipe("sft", f"output_dir={tmp_path / 'one'}", *common)
    assert "continuing from step 2" in done.stdout
    assert [r["loss"] for r in rows(tmp_path / "one")] == [r["loss"] for r in before]
    assert all(torch.equal(first[k], v) for k, v in load_file(weights).items())
    # The moments take a quarter of float32's bytes.
    sizes = {
        name: sum(f.stat().st_size for f in (folder / "checkpoints/step_2").glob("*.distcp"))
        for name, folder in (("8-bit", tmp_path / "one"), ("32-bit", small_run / "sft"))
    }
    assert sizes["8-bit"] < 0.65 * sizes["32-bit"]
    recipe("sft", f"output_dir={tmp_path / 'two'}", *common, launch=("--nproc_per_node", "2"))
    # Blocks are quantised shard by shard, so the steps differ within that rounding.
    assert [r["loss"] for r in rows(tmp_path / "two")] == pytest.approx(
        [r["loss"] for r in before], abs=0.02
    )


def test_neither_gains_nor_embeddings_decay(small_run, tmp_path):
    """With no more than the decay in a step: two updates by factors of 1 and 1/2 of a tenth."""
    optimizer = "optimizer={_component_: torch.optim.AdamW, lr: 1e-7, weight_decay: 1e6}"
    recipe(
        "sft",
        f"run_dir={small_run}",
        f"output_dir={tmp_path / 'run'}",
        *SMALL["sft"],
        optimizer,
        "max_steps=2",
        "warmup_ratio=0.0",
    )
    before, after = (
        load_file(folder / "model" / "model.safetensors")
        for folder in (small_run / "midtrain", tmp_path / "run")
    )
    matrices = 0
    for name, weight in before.items():
        decays = weight.ndim > 1 and "embed_tokens" not in name
        matrices += decays
        expected = weight * (0.9 * 0.95 if decays else 1.0)
        torch.testing.assert_close(after[name], expected, rtol=1e-4, atol=1e-5)
    assert 0 < matrices < len(before)


@pytest.mark.parametrize(
    ("logger", "needs"), [("DiskLogger", None), ("TensorBoardLogger", "tensorboard")]
)
def test_a_metric_logger_of_torchtune_gets_every_step(small_run, tmp_path, logger, needs):
    if needs:
        pytest.importorskip(needs)
    node = f"{{_component_: torchtune.training.metric_logging.{logger}, log_dir: {tmp_path}/log}}"
    recipe(
        "sft",
        f"run_dir={small_run}",
        f"output_dir={tmp_path / 'run'}",
        *SMALL["sft"],
        f"metric_logger={node}",
    )
    files = [f for f in (tmp_path / "log").rglob("*") if f.is_file()]
    assert files
    if logger == "DiskLogger":
        lines = files[0].read_text().splitlines()
        assert [int(x.split()[1]) for x in lines if x.startswith("Step")] == [1, 2, 3, 4]
        assert all("loss:" in x and "tokens_per_second:" in x for x in lines)
    else:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(files[0].parent)).Reload()
        assert len(events.Tensors("loss")) == 4  # torchtune writes tensor events

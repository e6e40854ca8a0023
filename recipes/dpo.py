"""Run stage 3: rollout DPO, correct against incorrect responses to the same problem.

    tune run recipes/dpo.py --config configs/tiny/dpo.yaml
    tune run --nproc_per_node 2 recipes/dpo.py --config configs/tiny/dpo.yaml

The reference is the start model, frozen. Its log-probs are computed once, before the first
step, and kept in the run folder, so that only one model is in memory. Chosen and rejected response
lie end to end in one row, without padding. A run folder belongs to one start model and one file of
pairs (their hashes are in the manifest), so stored log-probs cannot be used with another reference.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from custom_components.config import UserError, instantiate, recipe_main
from custom_components.data.batching import MicroBatch
from custom_components.data.packing import IGNORE, encode_pair, open_table, prepare_examples
from custom_components.io import atomic_path
from custom_components.losses.dpo import dpo_loss
from custom_components.runs.metrics import Sums
from custom_components.runs.run_folder import RunFolder
from custom_components.training.distributed import setup_world
from custom_components.training.model import open_model
from custom_components.training.supervised import GlobalBatch, global_batch
from custom_components.training.trainer import Trainer, total_steps
from custom_components.training.training_config import DPOConfig


@recipe_main
def main(cfg: DPOConfig) -> None:
    """Train on pairs of verified rollouts with the sigmoid DPO loss."""
    with setup_world(cfg.device, alone=cfg.dtype == "bf16") as world:
        run = RunFolder("dpo", cfg, world)
        if run.already_complete:
            return
        tokenizer = instantiate(cfg.tokenizer, "tokenizer")
        open_model(cfg, tokenizer)  # refuse a model that does not fit before the data is tokenised
        encode = partial(encode_pair, tokenizer=tokenizer)
        examples = run.path / "examples"
        prepare = partial(
            prepare_examples, cfg.data, encode, cfg.max_seq_len, examples, cfg.tokenize_workers
        )
        run.once("examples", prepare)
        if cfg.prepare_only:
            return
        rows = open_table(examples)
        trainer = Trainer(cfg, run, world, tokenizer, total_steps(cfg, len(rows)))
        reference = reference_logprobs(trainer, rows)
        falling = FallingAlarm(cfg.alarm_window)

        for epoch, indices in trainer.batches(rows):
            batch = global_batch(trainer, rows, indices)
            sums = Sums()
            loss = trainer.backward(pair_losses(trainer, batch, reference, sums))
            means: dict[str, Any] = {
                name: total / batch.rows for name, total in world.sums(sums).items()
            }
            margin = means["reward_chosen"] - means["reward_rejected"]
            if alarm := falling.check(means["logprob_chosen"]):
                trainer.alarm(alarm)
            trainer.finish_step(
                loss,
                batch.tokens,
                document_length=batch.document_length,
                epoch=epoch,
                margin=margin,
                **means,
            )
        trainer.finish()


class FallingAlarm:
    """Notice when the chosen responses keep getting less likely.

    DPO may lower both sides and still widen the margin, until the model forgets how to write
    either.

    Args:
        window: number of steps to average over; 0 turns the alarm off.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.values: list[float] = []

    def check(self, logprob_chosen: float) -> str | None:
        """Add a step's mean log-prob of the chosen responses; return an alarm's text or None."""
        self.values.append(logprob_chosen)
        n = self.window
        if not n or len(self.values) < 4 * n or len(self.values) % n:
            return None
        means = [sum(self.values[-i * n :][:n]) / n for i in (4, 3, 2, 1)]
        if not means[0] > means[1] > means[2] > means[3]:
            return None
        return (
            f"the log-prob of the chosen responses keeps falling ({means[0]:.1f} to {means[3]:.1f} "
            f"over {4 * n} steps): lower optimizer.lr, raise beta, or add nll_weight"
        )


def pair_logprobs(
    trainer: Trainer[DPOConfig], batch: MicroBatch, normalised: bool
) -> tuple[torch.Tensor, ...]:
    """Compute the log-probs of whole responses.

    Args:
        trainer: Trainer that runs the model.
        batch: Micro-batch of pairs, chosen and rejected in turn.
        normalised: Take the mean over a response's tokens instead of their sum.

    Returns:
        (log-probs, tokens of the response), each [pairs, 2] float32.
    """
    lengths = list(batch.documents.lengths)
    logprobs = trainer.forward_logprobs(batch)[0]
    scored = (batch.targets[0] != IGNORE).to(logprobs)
    counts = torch.stack([part.sum() for part in scored.split(lengths)])
    totals = torch.stack([part.sum() for part in logprobs.split(lengths)])
    if normalised:
        totals = totals / counts
    return totals.view(-1, 2), counts.view(-1, 2)


def pair_losses(
    trainer: Trainer[DPOConfig], batch: GlobalBatch, reference: np.ndarray, sums: Sums
) -> Iterator[torch.Tensor]:
    """Yield each micro-batch's share of the mean loss per pair; add the logged values to `sums`."""
    cfg = trainer.cfg
    for indices, micro_batch in batch.parts:
        logprobs, lengths = pair_logprobs(trainer, micro_batch, cfg.length_normalised)
        chosen, rejected = logprobs.unbind(1)
        frozen = torch.from_numpy(reference[indices]).to(logprobs)
        losses, good, bad = dpo_loss(chosen, rejected, frozen[:, 0], frozen[:, 1], cfg.beta)
        if cfg.nll_weight:
            nll = -chosen if cfg.length_normalised else -chosen / lengths[:, 0]
            losses = losses + cfg.nll_weight * nll
        sums.add(
            reward_chosen=float(good.sum()),
            reward_rejected=float(bad.sum()),
            accuracy=float((good > bad).sum()),
            logprob_chosen=float(chosen.detach().sum()),
            logprob_rejected=float(rejected.detach().sum()),
            length_chosen=float(lengths[:, 0].sum()),
            length_rejected=float(lengths[:, 1].sum()),
        )
        yield losses.sum() / batch.rows


def reference_logprobs(trainer: Trainer[DPOConfig], rows: Any) -> np.ndarray:
    """Return the log-probs of all pairs under the start model, [rows, 2] float32; compute them once.

    All ranks compute together, before the first step: until then the model is the reference.

    Raises:
        UserError: When the log-probs are missing after the first step.
    """
    path, world = trainer.run.path / "reference.npy", trainer.world
    exists = path.exists()
    world.barrier()
    if not exists and trainer.step:
        raise UserError(
            f"{path} is missing, and step {trainer.step} is not the reference; set resume=never"
        )
    if not exists:
        values = np.zeros((len(rows), 2))
        size = trainer.cfg.batch_size
        chunks = [list(range(len(rows)))[i : i + size] for i in range(0, len(rows), size)]
        if len(chunks) > 1 and len(chunks[-1]) < world.size:
            chunks[-2] += chunks.pop()  # every rank needs a part
        bar = tqdm(total=len(rows), desc="reference", unit="pair", disable=world.rank != 0)
        with torch.no_grad():
            for chunk in chunks:
                for indices, micro_batch in global_batch(trainer, rows, chunk).parts:
                    logprobs, _ = pair_logprobs(trainer, micro_batch, trainer.cfg.length_normalised)
                    values[indices] = logprobs.double().cpu().numpy()
                bar.update(len(chunk))
        bar.close()
        values = world.sum_tensor(values).float().numpy()
        if world.rank == 0:
            with atomic_path(path) as temporary:
                np.save(temporary, values)
        world.barrier()
    return np.load(path)


if __name__ == "__main__":
    main()

"""Stage 1: distil on every verified-correct rollout, packed.

    tune run recipes/midtrain.py --config configs/tiny/midtrain.yaml
    tune run --nproc_per_node 2 recipes/midtrain.py --config configs/tiny/midtrain.yaml

Documents are packed best-fit into rows of `max_seq_len` tokens. Attention stays inside each
document and positions restart, so a pack computes what its documents would compute apart;
`document_mask: false` turns that off, for the ablation. Left out: nothing is truncated (longer
documents are dropped and counted), and no label crosses a document's end.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from custom_components.config import instantiate, option, recipe_main, required
from custom_components.data.packing import encode_messages, open_table, prepare_packs
from custom_components.training.distributed import setup_world
from custom_components.training.run_folder import RunFolder
from custom_components.training.supervised import global_batch, next_token_losses
from custom_components.training.trainer import (
    Trainer,
    TrainingConfig,
    inputs_of,
    total_steps,
)


@dataclass
class MidtrainConfig(TrainingConfig):
    """Config of recipes/midtrain.py. A row of a batch is a pack."""

    data: str = required("Parquet file of the midtrain split")
    train_on_prompt: bool = option(False, "also score the tokens of the prompt")
    document_mask: bool = option(True, "attention and positions stay inside a document")


@recipe_main(MidtrainConfig)
def main(cfg: Any) -> None:
    """Packed next-token training."""
    with setup_world(cfg.device) as world:
        run = RunFolder("midtrain", cfg, inputs_of(cfg, cfg.data), world)
        if run.already_complete:
            return
        tokenizer = instantiate(cfg.tokenizer, "tokenizer")
        encode = partial(encode_messages, tokenizer=tokenizer, train_on_prompt=cfg.train_on_prompt)
        packs = run.path / "packs"
        run.once("packs", lambda: prepare_packs(cfg.data, encode, cfg.max_seq_len, packs))
        rows = open_table(packs)
        trainer = Trainer(cfg, run, world, tokenizer, total_steps(cfg, len(rows)))

        for epoch, indices in trainer.batches(len(rows)):
            batch = global_batch(trainer, rows, indices, cfg.document_mask)
            loss = trainer.backward(next_token_losses(trainer, batch))
            trainer.finish_step(loss, batch.tokens, scored_tokens=batch.scored, epoch=epoch)
        trainer.finish()


if __name__ == "__main__":
    main()

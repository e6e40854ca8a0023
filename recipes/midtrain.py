"""Run stage 1: distil on every verified-correct rollout, packed.

    tune run recipes/midtrain.py --config configs/tiny/midtrain.yaml
    tune run --nproc_per_node 2 recipes/midtrain.py --config configs/tiny/midtrain.yaml

Documents are packed best-fit into rows of `max_seq_len` tokens. Attention stays inside each
document and positions restart, so a pack computes what its documents would compute apart;
`document_mask: false` turns that off, for the ablation. Nothing is truncated (longer documents are
dropped and counted), and no label crosses a document's end.

With `validation.share` some problems are held out, and the loss on them is logged. The model of its
lowest point is exported, unless `validation.keep_best` is off. With `validation.patience` the run
ends when the loss saturates; the learning rate is then still high, and the exported model has not
been annealed.
"""

from dataclasses import asdict
from functools import partial

from custom_components.config import UserError, instantiate, recipe_main
from custom_components.data.packing import (
    encode_messages,
    open_table,
    prepare_packs,
    validation_tables,
)
from custom_components.runs.run_folder import RunFolder
from custom_components.training.distributed import setup_world
from custom_components.training.model import open_model
from custom_components.training.supervised import global_batch, next_token_losses
from custom_components.training.trainer import Trainer, total_steps
from custom_components.training.training_config import MidtrainConfig
from custom_components.training.validation import BestSoFar, validation_losses


@recipe_main
def main(cfg: MidtrainConfig) -> None:
    """Train on packed documents with the next-token loss."""
    with setup_world(cfg.device, alone=cfg.dtype == "bf16") as world:
        run = RunFolder("midtrain", cfg, world)
        if run.already_complete:
            return
        tokenizer = instantiate(cfg.tokenizer, "tokenizer")
        open_model(cfg, tokenizer)  # refuse a model that does not fit before the data is tokenised
        encode = partial(encode_messages, tokenizer=tokenizer, train_on_prompt=cfg.train_on_prompt)
        packs = run.path / "packs"
        held_out = cfg.validation.share
        workers = cfg.tokenize_workers
        prepare = partial(
            prepare_packs, cfg.data, encode, cfg.max_seq_len, packs, cfg.mixture, held_out, workers
        )
        run.once("packs", prepare)
        if cfg.prepare_only:
            return
        rows, tables = open_table(packs), validation_tables(packs)
        if held_out and not tables:
            raise UserError(
                f"validation.share={held_out} holds no problem of {cfg.data} out; raise it"
            )
        trainer = Trainer(cfg, run, world, tokenizer, total_steps(cfg, len(rows)))
        progress = BestSoFar(**trainer.extra.get("validation", {}))

        for epoch, indices in trainer.batches(rows):
            batch = global_batch(trainer, rows, indices, cfg.document_mask)
            loss = trainer.backward(next_token_losses(trainer, batch))
            norm = trainer.update()

            # validation, with the updated weights
            validated, best = {}, False
            if tables and (trainer.step + 1) % cfg.validation.every == 0:
                validated = validation_losses(
                    trainer, tables, cfg.validation.max_packs, cfg.document_mask
                )
                best = progress.update(
                    trainer.step + 1, validated["val_loss"], cfg.validation.min_delta
                )

            trainer.finish_step(
                loss,
                batch.tokens,
                norm,
                batch.document_length,
                best=best and cfg.validation.keep_best,
                extra={"validation": asdict(progress)},
                scored_tokens=batch.scored,
                epoch=epoch,
                **validated,
            )
            if progress.waited >= cfg.validation.patience > 0:
                trainer.say(f"validation loss saturated: lowest at step {progress.best_step}")
                break
        if progress.best_step and cfg.validation.keep_best:
            trainer.restore(progress.best_step)
        trainer.finish(asdict(progress) if tables else {})


if __name__ == "__main__":
    main()

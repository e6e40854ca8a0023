"""Run stage 2: fine-tune on the compact, high-quality subset, not packed.

    tune run recipes/sft.py --config configs/tiny/sft.yaml
    tune run --nproc_per_node 2 recipes/sft.py --config configs/tiny/sft.yaml

Each example has positions from 0, and its end-of-turn token is trained: here the model learns where
to stop. A batch is a number of examples. They are laid end to end in micro-batches without padding,
and attention never leaves an example.
"""

from functools import partial

from custom_components.config import instantiate, recipe_main
from custom_components.data.packing import encode_messages, open_table, prepare_examples
from custom_components.runs.run_folder import RunFolder
from custom_components.training.distributed import setup_world
from custom_components.training.model import open_model
from custom_components.training.supervised import global_batch, next_token_losses
from custom_components.training.trainer import Trainer, total_steps
from custom_components.training.training_config import SFTConfig


@recipe_main
def main(cfg: SFTConfig) -> None:
    """Train on the responses of single examples with the next-token loss."""
    with setup_world(cfg.device, alone=cfg.dtype == "bf16") as world:
        run = RunFolder("sft", cfg, world)
        if run.already_complete:
            return
        tokenizer = instantiate(cfg.tokenizer, "tokenizer")
        open_model(cfg, tokenizer)  # refuse a model that does not fit before the data is tokenised
        encode = partial(encode_messages, tokenizer=tokenizer)
        examples = run.path / "examples"
        prepare = partial(
            prepare_examples, cfg.data, encode, cfg.max_seq_len, examples, cfg.tokenize_workers
        )
        run.once("examples", prepare)
        if cfg.prepare_only:
            return
        rows = open_table(examples)
        trainer = Trainer(cfg, run, world, tokenizer, total_steps(cfg, len(rows)))

        for epoch, indices in trainer.batches(rows):
            batch = global_batch(trainer, rows, indices)
            loss = trainer.backward(next_token_losses(trainer, batch))
            trainer.finish_step(
                loss,
                batch.tokens,
                document_length=batch.document_length,
                scored_tokens=batch.scored,
                epoch=epoch,
            )
        trainer.finish()


if __name__ == "__main__":
    main()

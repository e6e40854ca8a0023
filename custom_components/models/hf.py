"""Hugging Face folders: which builder they need, their weights in, a trained model out."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torchtune.models.phi3._convert_weights import phi3_hf_to_tune, phi3_tune_to_hf
from torchtune.models.qwen2._convert_weights import qwen2_hf_to_tune, qwen2_tune_to_hf

from custom_components.config import UserError
from custom_components.io import atomic_path
from custom_components.models.decoder import Decoder
from custom_components.models.longrope import LongRoPE, RopeFactor
from custom_components.models.lora import LORA_MODULES, is_adapter
from custom_components.models.phi4_mini import phi4_mini
from custom_components.models.smollm2 import smollm2

FAMILIES = {"Phi3ForCausalLM": phi4_mini, "LlamaForCausalLM": smollm2}
# what the builders leave out: any other value is another model
FIXED = {
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "tie_word_embeddings": (True,),
    "attention_dropout": (0, 0.0, None),
    "resid_pdrop": (0, 0.0, None),
    "embd_pdrop": (0, 0.0, None),
    "pretraining_tp": (1, None),
    "quantization_config": (None,),
}
COPIED = ("*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "NOTICE*")
SHARD_BYTES = 5 * 2**30
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def read_config(folder: str | Path) -> dict[str, Any]:
    """config.json of a Hugging Face folder.

    Raises:
        UserError: when the folder is not one.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(
            f"{folder} is not a Hugging Face model folder (no config.json); has the stage that "
            "makes it finished?"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise UserError(f"{path} is not valid JSON ({e})") from e


def builder_arguments(folder: str | Path) -> tuple[Any, dict[str, Any]]:
    """The builder and its arguments that represent a Hugging Face folder's config.json.

    Returns:
        (`phi4_mini` or `smollm2`, keyword arguments; without `rope_factor`).

    Raises:
        UserError: naming the first field that no builder represents.
    """
    config, path = read_config(folder), Path(folder) / "config.json"
    architecture = (config.get("architectures") or ["?"])[0]
    if architecture not in FAMILIES:
        raise UserError(
            f"{path}: architectures is {architecture}; supported: {', '.join(FAMILIES)}"
        )
    for field, allowed in FIXED.items():
        if field in config and config[field] not in allowed:
            raise UserError(
                f"{path}: {field}={config[field]!r} is not supported ({allowed[0]!r} is)"
            )
    try:
        arguments = {
            "vocab_size": config["vocab_size"],
            "num_layers": config["num_hidden_layers"],
            "num_heads": config["num_attention_heads"],
            "num_kv_heads": config.get("num_key_value_heads") or config["num_attention_heads"],
            "embed_dim": config["hidden_size"],
            "intermediate_dim": config["intermediate_size"],
            "max_seq_len": config["max_position_embeddings"],
            "norm_eps": config["rms_norm_eps"],
        }
    except KeyError as e:
        raise UserError(f"{path}: field {e.args[0]!r} is missing") from e
    head_dim = arguments["embed_dim"] // arguments["num_heads"]
    if config.get("head_dim") not in (None, head_dim):
        raise UserError(f"{path}: head_dim={config['head_dim']} is not hidden_size / heads")
    window = config.get("sliding_window")
    if window is not None and window < arguments["max_seq_len"]:
        raise UserError(
            f"{path}: sliding_window={window} is shorter than the context; not supported"
        )
    # transformers 5 writes rope_parameters, older versions rope_scaling beside top-level fields
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    arguments["rope_base"] = float(rope.get("rope_theta", config.get("rope_theta", 10_000.0)))
    partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if architecture == "LlamaForCausalLM":
        if kind != "default" or partial != 1.0:
            raise UserError(f"{path}: rope type {kind!r} is not supported for {architecture}")
        return smollm2, arguments
    rotary = int(head_dim * partial)
    arguments["partial_rotary_factor"] = partial
    original = rope.get(
        "original_max_position_embeddings", config.get("original_max_position_embeddings")
    )
    if kind == "longrope":
        factors = {k: tuple(map(float, rope[k])) for k in ("short_factor", "long_factor")}
        for name, factor in factors.items():
            if len(factor) != rotary // 2:
                raise UserError(f"{path}: {name} has {len(factor)} values, expected {rotary // 2}")
    elif kind == "default":
        factors = dict.fromkeys(("short_factor", "long_factor"), (1.0,) * (rotary // 2))
        original = arguments["max_seq_len"]
    else:
        raise UserError(f"{path}: rope type {kind!r} is not supported (longrope, default)")
    arguments |= factors | {"original_max_seq_len": original or arguments["max_seq_len"]}
    return phi4_mini, arguments


def served_rope_factors(folder: str | Path, max_model_len: int) -> tuple[float, ...] | None:
    """The LongRoPE factors that vLLM computes with: it picks the branch once, by the longest
    sequence that it is to serve. None for models of another family, which are not trained here.
    """
    if (read_config(folder).get("architectures") or ["?"])[0] != "Phi3ForCausalLM":
        return None
    _, arguments = builder_arguments(folder)
    branch = "long" if max_model_len > arguments["original_max_seq_len"] else "short"
    return arguments[f"{branch}_factor"]


def from_folder(
    path: str | Path,
    rope_factor: RopeFactor = "long",
    lora_rank: int = 0,
    lora_alpha: float = 16.0,
    lora_modules: Sequence[str] = LORA_MODULES,
) -> Decoder:
    """The decoder that a Hugging Face folder describes, of any supported family; without its weights.

    Args:
        path: folder with config.json.
        rope_factor: LongRoPE's branch; of no effect for models without.
        lora_rank, lora_alpha, lora_modules: as for `phi4_mini`.
    """
    builder, arguments = builder_arguments(path)
    if builder is phi4_mini:
        arguments["rope_factor"] = rope_factor
    return builder(
        **arguments, lora_rank=lora_rank, lora_alpha=lora_alpha, lora_modules=lora_modules
    )


def build_from_folder(folder: str | Path, rope_factor: RopeFactor = "long") -> Decoder:
    """The decoder that a Hugging Face folder describes, with its weights (float32).

    Args:
        folder: config.json and safetensors.
        rope_factor: LongRoPE's branch; of no effect where the folder's factors are equal.
    """
    model = from_folder(folder, rope_factor)
    model.load_state_dict(HFCheckpointer(folder).load_checkpoint()["model"], strict=True)
    return model


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{folder}: weight file {name} is missing")
    return [folder / name for name in names]


class HFCheckpointer:
    """Reads and writes a model as a Hugging Face folder, in torchtune's state-dict names.

    Args:
        checkpoint_dir: folder with config.json, tokenizer files and safetensors.

    Raises:
        UserError: when the folder is not one, or its config is not supported.
    """

    def __init__(self, checkpoint_dir: str) -> None:
        self.folder = Path(checkpoint_dir)
        self.config = read_config(self.folder)
        self.builder, self.arguments = builder_arguments(self.folder)

    def load_checkpoint(self) -> dict[str, Any]:
        """{"model": state dict in torchtune's names, float32}.

        Raises:
            UserError: on a missing or damaged weight file.
        """
        weights = {}
        for file in _weight_files(self.folder):
            try:
                with safe_open(file, framework="pt") as f:
                    for name in f.keys():  # noqa: SIM118 (not a mapping)
                        weights[name] = f.get_tensor(name).float()
            except SafetensorError as e:
                raise UserError(f"{file} is damaged ({e})") from e
        return {"model": self.to_tune(weights)}

    def _heads(self) -> dict[str, int]:
        names = {"num_heads": "num_heads", "num_kv_heads": "num_kv_heads", "dim": "embed_dim"}
        return {ours: self.arguments[theirs] for ours, theirs in names.items()}

    def to_tune(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A Hugging Face state dict in torchtune's names and layout; a tied head is dropped."""
        weights = {k: v for k, v in weights.items() if k != "lm_head.weight"}
        if self.builder is phi4_mini:
            return phi3_hf_to_tune(weights, **self._heads())
        return qwen2_hf_to_tune(weights)

    def to_hf(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A torchtune state dict in Hugging Face's names and layout."""
        if self.builder is phi4_mini:
            return phi3_tune_to_hf(state_dict)
        return qwen2_tune_to_hf(state_dict)

    def check_model(self, model: Decoder) -> None:
        """Check that a built model is the one the folder describes.

        Raises:
            UserError: naming the first thing that differs.
        """
        with torch.device("meta"):
            described = self.builder(**self.arguments)
        ours = {k: tuple(v.shape) for k, v in model.state_dict().items() if not is_adapter(k)}
        theirs = {k: tuple(v.shape) for k, v in described.state_dict().items()}
        for name in ours.keys() | theirs.keys():
            if ours.get(name) != theirs.get(name):
                raise UserError(
                    f"model and checkpoint differ: {name} is {ours.get(name)} in the built model "
                    f"and {theirs.get(name)} in {self.folder}"
                )
        # only the branch in use: an export writes the trained branch under both names
        rope, other = (m.layers[0].attn.pos_embeddings for m in (model, described))
        branch = getattr(rope, "rope_factor", None)
        for name in ("scale", "base", "rotary_dim", "factors"):
            ours, theirs = getattr(rope, name, None), getattr(other, name, None)
            if name == "factors" and branch in ("short", "long"):
                ours, theirs = ours[branch], theirs[branch]
            if ours != theirs:
                raise UserError(
                    f"model and checkpoint differ in the rotary embedding's {name}: {ours} built, "
                    f"{theirs} in {self.folder}"
                )

    def save_model(
        self,
        state_dict: dict[str, torch.Tensor],
        output: str | Path,
        dtype: torch.dtype,
        rope_factor: RopeFactor | None = None,
        stop_ids: list[int] | None = None,
        card: str | None = None,
    ) -> None:
        """Write an ordinary Hugging Face folder, atomically.

        config.json, tokenizer files, chat template and generation config come from
        `checkpoint_dir`. A model trained on the long LongRoPE branch is written with
        `short_factor` equal to `long_factor` (and the reverse), so that every library computes
        the trained function at every length.

        Args:
            state_dict: whole model, torchtune's names.
            output: folder to write.
            dtype: of the stored weights.
            rope_factor: the branch trained on; None for models without LongRoPE.
            stop_ids: token ids that end generation, for the generation config.
            card: text of README.md.
        """
        config = json.loads(json.dumps(self.config))
        config["dtype"] = str(dtype).removeprefix("torch.")
        config.pop("torch_dtype", None)
        for field in ("rope_parameters", "rope_scaling"):
            rope = config.get(field)
            if rope and rope_factor and "long_factor" in rope:
                rope["short_factor"] = rope["long_factor"] = rope[f"{rope_factor}_factor"]
        with atomic_path(output) as folder:
            folder.mkdir()
            for pattern in COPIED:
                for file in self.folder.glob(pattern):
                    if not file.name.endswith(".index.json"):
                        shutil.copyfile(file, folder / file.name)
            (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            if stop_ids:
                path = folder / "generation_config.json"
                generation = json.loads(path.read_text()) if path.is_file() else {}
                generation["eos_token_id"] = stop_ids
                path.write_text(json.dumps(generation, indent=2) + "\n")
            if card:
                (folder / "README.md").write_text(card, encoding="utf-8")
            _save_sharded(self.to_hf(state_dict), folder, dtype)


def _save_sharded(weights: dict[str, torch.Tensor], folder: Path, dtype: torch.dtype) -> None:
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = total = 0
    for name, tensor in weights.items():
        tensor = tensor.to(dtype).contiguous()
        nbytes = tensor.numel() * tensor.element_size()
        if shards[-1] and size + nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size, total = size + nbytes, total + nbytes
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def rope_factor_of(model: Decoder) -> RopeFactor | None:
    """The LongRoPE branch a model computes; None for other rotary embeddings."""
    rope = model.layers[0].attn.pos_embeddings
    return rope.rope_factor if isinstance(rope, LongRoPE) else None


def rope_factors_of(model: Decoder) -> tuple[float, ...] | None:
    """The LongRoPE factors a model computes with; None for other rotary embeddings."""
    branch = rope_factor_of(model)
    return model.layers[0].attn.pos_embeddings.factors[branch] if branch else None

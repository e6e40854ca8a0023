"""Read config.json of a Hugging Face folder: which decoder it describes, and how to build it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from custom_components.config import UserError
from custom_components.models.decoder import Decoder, DecoderSize, build_decoder, plain_rope
from custom_components.models.longrope import LongRoPE, RopeFactor

ARCHITECTURES = ("Phi3ForCausalLM", "LlamaForCausalLM")
"""Values of `architectures` that `build_decoder` represents."""

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
"""Fields that `build_decoder` does not represent, with the values of them that it computes."""


@dataclass(frozen=True)
class RotaryConfig:
    """Hold the rotary embedding of a model.

    Attributes:
        base: rotary base (theta).
        dim: leading dimensions of each head that rotate.
        original_max_seq_len: context before LongRoPE's extension.
        factors: LongRoPE's frequency divisors by branch, dim / 2 each; None for a plain embedding.
    """

    base: float
    dim: int
    original_max_seq_len: int
    factors: dict[str, tuple[float, ...]] | None = None

    def factors_of(self, branch: str) -> tuple[float, ...] | None:
        """Return a LongRoPE branch's factors, or None if there is no such branch."""
        return (self.factors or {}).get(branch)


@dataclass(frozen=True)
class ModelConfig:
    """Hold what config.json says about a decoder.

    Attributes:
        architecture: one of `ARCHITECTURES`.
        size: sizes of the decoder.
        rotary: rotary embedding of the decoder.
    """

    architecture: str
    size: DecoderSize
    rotary: RotaryConfig

    def build(self, rope_factor: RopeFactor = "long") -> Decoder:
        """Build the decoder with random weights.

        Args:
            rope_factor: LongRoPE's branch; without effect on models without LongRoPE.
        """
        return build_decoder(self.size, self._rope(rope_factor))

    def _rope(self, rope_factor: RopeFactor) -> nn.Module:
        size, rotary = self.size, self.rotary
        if rotary.factors is None:
            return plain_rope(size, rotary.base)
        return LongRoPE(
            head_dim=size.head_dim,
            rotary_dim=rotary.dim,
            max_seq_len=size.max_seq_len,
            original_max_seq_len=rotary.original_max_seq_len,
            short_factor=rotary.factors["short"],
            long_factor=rotary.factors["long"],
            rope_factor=rope_factor,
            base=rotary.base,
        )


def read_config(folder: str | Path) -> dict[str, Any]:
    """Return config.json of a Hugging Face folder.

    Raises:
        UserError: if the folder is not a Hugging Face model folder.
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


def architecture_of(config: dict[str, Any]) -> str:
    """Return the first of a config's `architectures`, or `?` if it has none."""
    return (config.get("architectures") or ["?"])[0]


def read_model_config(folder: str | Path) -> ModelConfig:
    """Read which decoder a Hugging Face folder describes.

    Raises:
        UserError: naming the first field that `build_decoder` does not represent.
    """
    config, path = read_config(folder), Path(folder) / "config.json"
    architecture = architecture_of(config)
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"{path}: architectures is {architecture}; supported: {', '.join(ARCHITECTURES)}"
        )
    for field, allowed in FIXED.items():
        if field in config and config[field] not in allowed:
            raise UserError(
                f"{path}: {field}={config[field]!r} is not supported ({allowed[0]!r} is)"
            )
    size = _size(config, path)
    window = config.get("sliding_window")
    if window is not None and window < size.max_seq_len:
        raise UserError(
            f"{path}: sliding_window={window} is shorter than the context; not supported"
        )
    return ModelConfig(architecture, size, _rotary(config, architecture, size, path))


def _size(config: dict[str, Any], path: Path) -> DecoderSize:
    try:
        heads = config["num_attention_heads"]
        size = DecoderSize(
            vocab_size=config["vocab_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config["hidden_size"] // heads,
            embed_dim=config["hidden_size"],
            intermediate_dim=config["intermediate_size"],
            max_seq_len=config["max_position_embeddings"],
            norm_eps=config["rms_norm_eps"],
        )
    except KeyError as e:
        raise UserError(f"{path}: field {e.args[0]!r} is missing") from e
    if config.get("head_dim") not in (None, size.head_dim):
        raise UserError(f"{path}: head_dim={config['head_dim']} is not hidden_size / heads")
    return size


def _rotary(
    config: dict[str, Any], architecture: str, size: DecoderSize, path: Path
) -> RotaryConfig:
    # transformers 5 writes rope_parameters, older versions rope_scaling beside top-level fields
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    base = float(rope.get("rope_theta", config.get("rope_theta", 10_000.0)))
    partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if architecture == "LlamaForCausalLM":
        if kind != "default" or partial != 1.0:
            raise UserError(f"{path}: rope type {kind!r} is not supported for {architecture}")
        return RotaryConfig(base, size.head_dim, size.max_seq_len)
    dim = int(size.head_dim * partial)
    original = rope.get(
        "original_max_position_embeddings", config.get("original_max_position_embeddings")
    )
    if kind == "longrope":
        factors = {k: tuple(map(float, rope[f"{k}_factor"])) for k in ("short", "long")}
        for name, factor in factors.items():
            if len(factor) != dim // 2:
                raise UserError(
                    f"{path}: {name}_factor has {len(factor)} values, expected {dim // 2}"
                )
    elif kind == "default":
        factors = dict.fromkeys(("short", "long"), (1.0,) * (dim // 2))
        original = size.max_seq_len
    else:
        raise UserError(f"{path}: rope type {kind!r} is not supported (longrope, default)")
    return RotaryConfig(base, dim, original or size.max_seq_len, factors)


def served_rope_factors(folder: str | Path, max_model_len: int) -> tuple[float, ...] | None:
    """Return the LongRoPE factors that vLLM computes with.

    vLLM picks the branch once, by the longest sequence that it is to serve.

    Args:
        folder: Hugging Face folder that is served.
        max_model_len: longest sequence, tokens.

    Returns:
        factors of the branch; None for other families, which have no LongRoPE.
    """
    if architecture_of(read_config(folder)) != "Phi3ForCausalLM":
        return None
    rotary = read_model_config(folder).rotary
    return rotary.factors_of("long" if max_model_len > rotary.original_max_seq_len else "short")

"""Read config.json of a Hugging Face folder: which decoder it describes, and how to build it."""

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RotaryEmbeddingConfigMixin

from custom_components.config import UserError
from custom_components.hub import folder_with_config
from custom_components.models.decoder import Decoder, DecoderSize, Variant, build_decoder
from custom_components.models.families import FAMILIES, FIXED, Family, Fields, rotates
from custom_components.models.longrope import LongRoPE, RopeFactor, long_rope_scale
from custom_components.models.rotary import RotaryEmbedding, plain_frequencies


@dataclass(frozen=True)
class RotaryConfig:
    """Hold the rotary embedding of a model.

    Attributes:
        base: rotary base (theta).
        dim: leading dimensions of each head that rotate.
        frequencies: radians per position, dim / 2 values; with LongRoPE those before its factors.
        scale: factor of cos and sin.
        original_max_seq_len: context before LongRoPE's extension; 0 for other embeddings.
        factors: LongRoPE's frequency divisors by branch, dim / 2 each; None for other embeddings.
    """

    base: float
    dim: int
    frequencies: tuple[float, ...]
    scale: float = 1.0
    original_max_seq_len: int = 0
    factors: dict[str, tuple[float, ...]] | None = None

    def factors_of(self, branch: str) -> tuple[float, ...] | None:
        """Return a LongRoPE branch's factors, or None if there is no such branch."""
        return (self.factors or {}).get(branch)

    def build(self, size: DecoderSize, rope_factor: RopeFactor) -> nn.Module:
        """Build the embedding for a decoder of this size."""
        if self.factors is None:
            return RotaryEmbedding(self.frequencies, self.scale)
        return LongRoPE(
            head_dim=size.head_dim,
            rotary_dim=self.dim,
            max_seq_len=size.max_seq_len,
            original_max_seq_len=self.original_max_seq_len,
            short_factor=self.factors["short"],
            long_factor=self.factors["long"],
            rope_factor=rope_factor,
            base=self.base,
        )


@dataclass(frozen=True)
class ModelConfig:
    """Hold what config.json says about a decoder.

    Attributes:
        architecture: key of `FAMILIES`.
        size: sizes of the decoder.
        variant: biases, norms and output layer of the decoder.
        rotary: rotary embedding of the decoder.
        local_rotary: rotary embedding of the layers with a window.
        rotating: whether each layer rotates.
        windows: sliding window of each layer, or None.
    """

    architecture: str
    size: DecoderSize
    variant: Variant
    rotary: RotaryConfig
    local_rotary: RotaryConfig
    rotating: tuple[bool, ...]
    windows: tuple[int | None, ...]

    @property
    def family(self) -> Family:
        """Return the row of `FAMILIES`."""
        return FAMILIES[self.architecture]

    def build(self, rope_factor: RopeFactor = "long") -> Decoder:
        """Build the decoder with random weights.

        Args:
            rope_factor: LongRoPE's branch; without effect on models without LongRoPE.
        """
        rope = self.rotary.build(self.size, rope_factor)
        local = rope
        if self.local_rotary != self.rotary:
            local = self.local_rotary.build(self.size, rope_factor)
        layers = zip(self.rotating, self.windows, strict=True)
        ropes = [(local if window else rope) if rotating else None for rotating, window in layers]
        return build_decoder(self.size, ropes, self.variant, self.windows)


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


def architecture_of(config: Fields) -> str:
    """Return the first of a config's `architectures`, or `?` if it has none."""
    return (config.get("architectures") or ["?"])[0]


def read_model_config(path: str | Path, key: str = "", revision: str | None = None) -> ModelConfig:
    """Read which decoder a model is; of a hub model only config.json is downloaded.

    Args:
        path: Hugging Face folder, or with `key` also a hub id.
        key: config key that named the model, for the message.
        revision: branch, tag or commit on the hub.

    Raises:
        UserError: naming the model, and the first field that the decoder does not represent.
    """
    folder = folder_with_config(path, key, revision) if key else path
    return model_config(read_config(folder), str(path))


def model_config(config: dict[str, Any], name: str) -> ModelConfig:
    """Return which decoder a config.json describes.

    Args:
        config: config.json.
        name: model that was asked for, as error messages name it.

    Raises:
        UserError: naming the first field that the decoder does not represent.
    """
    architecture = architecture_of(config)
    if architecture not in FAMILIES:
        raise UserError(
            f"{name}: architectures is {architecture}; supported: {', '.join(FAMILIES)}"
        )
    family = FAMILIES[architecture]
    fields = {**family.defaults, **config}
    for field, allowed in {**FIXED, **family.fixed}.items():
        if field in family.defaults or field not in config or config[field] in allowed:
            continue
        raise UserError(
            f"{name}: {field}={config[field]!r} is not supported for {architecture} "
            f"({allowed[0]!r} is)"
        )
    try:
        size = _size(fields, name)
        rotary, local = (
            _rotary(parameters, fields, size, name)
            for parameters in _rope_parameters(fields, family)
        )
        return ModelConfig(
            architecture,
            size,
            _variant(fields, family),
            rotary,
            local,
            tuple(rotates(fields, layer) for layer in range(size.num_layers)),
            _windows(fields, family, size.num_layers),
        )
    except KeyError as e:
        raise UserError(f"{name}: config.json lacks the field {e.args[0]!r}") from e
    except (TypeError, IndexError) as e:
        raise UserError(f"{name}: a field of config.json has a wrong value ({e})") from e


def _size(fields: Fields, name: str) -> DecoderSize:
    heads, width = fields["num_attention_heads"], fields["hidden_size"]
    if width % heads:
        raise UserError(f"{name}: hidden_size={width} is not a multiple of {heads} heads")
    return DecoderSize(
        vocab_size=fields["vocab_size"],
        num_layers=fields["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=fields["num_key_value_heads"] or heads,
        head_dim=fields.get("head_dim") or width // heads,
        embed_dim=width,
        intermediate_dim=fields["intermediate_size"],
        max_seq_len=fields["max_position_embeddings"],
        norm_eps=fields["rms_norm_eps"],
    )


def _variant(fields: Fields, family: Family) -> Variant:
    biased = bool(fields.get("attention_bias"))
    return Variant(
        tied=fields["tie_word_embeddings"],
        qkv_bias=biased or family.qkv_bias,
        output_bias=biased,
        qk_norm=family.qk_norm,
        gemma=family.gemma,
        attention_scale=fields["query_pre_attn_scalar"] ** -0.5 if family.gemma else None,
    )


def _windows(fields: Fields, family: Family, layers: int) -> tuple[int | None, ...]:
    """Return the sliding window of each layer."""
    window = fields.get("sliding_window") if fields.get("use_sliding_window", True) else None
    types = fields.get("layer_types")
    sliding = (
        types[layer] == "sliding_attention" if types else family.is_sliding(fields, layer)
        for layer in range(layers)
    )
    return tuple(window if slides else None for slides in sliding)


def _rope_parameters(fields: Fields, family: Family) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the rotary parameters of layers without and with a window.

    transformers 5 writes rope_parameters, older versions rope_scaling beside other fields.
    """
    parameters, scaling = fields.get("rope_parameters") or {}, fields.get("rope_scaling") or {}
    base = {"rope_theta": fields.get("rope_theta", RotaryEmbeddingConfigMixin.default_theta)}
    if not family.gemma:
        own = base | (scaling or parameters)
        return own, own
    local = {"rope_theta": fields["rope_local_base_freq"]}
    return (
        base | (parameters.get("full_attention") or {}) | scaling,
        local | (parameters.get("sliding_attention") or {}),
    )


class _RotaryFields(RotaryEmbeddingConfigMixin):
    """Hold what transformers' functions of rotary scaling read of a config."""

    def __init__(self, parameters: dict[str, Any], fields: Fields, head_dim: int) -> None:
        self.hidden_size = fields["hidden_size"]
        self.num_attention_heads = fields["num_attention_heads"]
        self.head_dim = head_dim
        self.max_position_embeddings = fields["max_position_embeddings"]
        if (original := fields.get("original_max_position_embeddings")) is not None:
            self.original_max_position_embeddings = original
        self.rope_parameters: dict[str, Any] = copy.deepcopy(parameters)
        partial = fields.get("partial_rotary_factor")
        self.rope_parameters.setdefault(
            "partial_rotary_factor", 1.0 if partial is None else partial
        )
        self.standardize_rope_params()


def _rotary(
    parameters: dict[str, Any], fields: Fields, size: DecoderSize, name: str
) -> RotaryConfig:
    architecture = architecture_of(fields)
    family = FAMILIES[architecture]
    rope = _RotaryFields(parameters, fields, size.head_dim)
    parameters = rope.rope_parameters
    kind = "longrope" if parameters["rope_type"] == "su" else parameters["rope_type"]
    if kind not in family.rope_types:
        raise UserError(
            f"{name}: rope type {kind!r} is not supported for {architecture} "
            f"({', '.join(family.rope_types)} are)"
        )
    partial = parameters["partial_rotary_factor"]
    if partial != 1.0 and not family.partial_rotary:
        raise UserError(f"{name}: partial_rotary_factor={partial} is not supported (1.0 is)")
    base, dim = float(parameters["rope_theta"]), int(size.head_dim * partial)
    if kind == "default":
        return RotaryConfig(base, dim, plain_frequencies(dim, base))
    # Meta is the default device while a model is built for its shapes alone.
    with torch.device("cpu"):
        if kind == "longrope":
            return _long_rotary(rope, base, dim, name)
        frequencies, scale = ROPE_INIT_FUNCTIONS[kind](rope, torch.device("cpu"))
        return RotaryConfig(base, dim, tuple(frequencies.tolist()), float(scale))


def _long_rotary(rope: _RotaryFields, base: float, dim: int, name: str) -> RotaryConfig:
    parameters = rope.rope_parameters
    factors = {k: tuple(map(float, parameters[f"{k}_factor"])) for k in ("short", "long")}
    for branch, factor in factors.items():
        if len(factor) != dim // 2:
            raise UserError(
                f"{name}: {branch}_factor has {len(factor)} values, expected {dim // 2}"
            )
    _, scale = ROPE_INIT_FUNCTIONS["longrope"](rope, torch.device("cpu"))
    original = parameters["original_max_position_embeddings"]
    if not math.isclose(scale, ours := long_rope_scale(rope.max_position_embeddings, original)):
        raise UserError(
            f"{name}: factor or attention_factor of LongRoPE scales by {scale}, where the contexts "
            f"give {ours}; not supported"
        )
    return RotaryConfig(base, dim, plain_frequencies(dim, base), scale, original, factors)


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

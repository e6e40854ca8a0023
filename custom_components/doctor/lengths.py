"""Check lengths against the model and the engine, and LongRoPE's branch."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

from custom_components.config import UserError
from custom_components.data.data_config import RolloutConfig
from custom_components.doctor.findings import Finding
from custom_components.doctor.stage import Stage
from custom_components.doctor.template import open_tokenizer
from custom_components.doctor.training_data import documents_of
from custom_components.models.config_json import read_config, read_model_config, served_rope_factors
from custom_components.models.longrope import LongRoPE, rope_factors_of
from custom_components.rl.rl_config import RLConfig
from custom_components.training.training_config import TrainingConfig
from eval.evaluate_config import EvaluateConfig

SHORT = 0.1
FAR_TOO_SHORT = 0.5
"""Shares of the responses learned from that are longer than `max_new_tokens`: warning, error."""


def engine_limit(stage: Stage) -> int | None:
    """Return the longest prompt plus response that the stage's engine serves; None if unknown."""
    engine = stage.engine
    if engine.get("max_model_len"):
        return engine["max_model_len"]
    folder = Path(str(engine.get("model", "")))
    if (folder / "config.json").is_file():
        # read_config alone: a teacher may be of a family that only its engine knows
        return read_config(folder).get("max_position_embeddings")
    return None


def response_limit(stage: Stage) -> float | None:
    """Return the longest response that the stage samples, tokens; None if it does not say."""
    cfg = stage.cfg
    if isinstance(cfg, RLConfig):
        return cfg.max_new_tokens
    if isinstance(cfg, RolloutConfig):
        return cfg.sampling.max_new_tokens
    return cfg.sampling.get("max_gen_toks") if isinstance(cfg, EvaluateConfig) else None


def check_context(stage: Stage) -> Iterator[Finding]:
    """Check that sequences fit into the model's context, and responses into the engine's."""
    cfg = stage.cfg
    limit = engine_limit(stage)
    longest = response_limit(stage)
    if isinstance(cfg, TrainingConfig) and stage.model is not None:
        context = stage.model.max_seq_len
        if cfg.max_seq_len > context:
            yield Finding(
                "context",
                "error",
                f"max_seq_len={cfg.max_seq_len} exceeds the model's {context}",
                "positions beyond the context have no meaning to the model",
                f"max_seq_len={context} at most, or a model with a longer context",
            )
        limit = min(limit or context, context)
    if longest and limit and longest >= limit:
        yield Finding(
            "context",
            "error",
            f"responses of {longest} tokens and their prompts exceed the {limit} served",
            "the engine refuses the request, or cuts every long response short",
            "a smaller max_new_tokens, or a larger engine.max_model_len where the model allows it",
        )


def check_rope_branch(stage: Stage) -> Iterator[Finding]:
    """Check that the engine computes the LongRoPE branch that is trained, and sequences fit it."""
    cfg, model = stage.cfg, stage.model
    if not isinstance(cfg, TrainingConfig) or model is None:
        return
    trained = rope_factors_of(model)
    if trained is None:
        return
    rope = cast(LongRoPE, model.rope)
    if rope.rope_factor == "short" and cfg.max_seq_len > rope.original_max_seq_len:
        yield Finding(
            "rope_branch",
            "error",
            f"model.rope_factor=short with sequences of {cfg.max_seq_len}, beyond the original "
            f"{rope.original_max_seq_len}",
            "the short factors were never meant for such positions",
            f"model.rope_factor=long, or max_seq_len={rope.original_max_seq_len}",
        )
    engine = stage.engine
    folder = Path(str(engine.get("model", "")))
    if not engine or not (folder / "config.json").is_file():
        return
    if "max_model_len" in engine or stage.runs_vllm:
        context = read_model_config(folder).size.max_seq_len
        served = served_rope_factors(folder, engine.get("max_model_len") or context)
    else:
        rotary = read_model_config(folder).rotary
        served = rotary.factors_of(engine.get("rope_factor", "long"))
    if served is not None and tuple(served) != trained:
        yield Finding(
            "rope_branch",
            "error",
            f"the engine serves {folder} with other LongRoPE factors than "
            f"model.rope_factor={rope.rope_factor} trains",
            "the policy that is sampled would not be the one that is trained",
            "set engine.rope_factor (torch), or engine.max_model_len (vllm: the long branch above "
            f"{rope.original_max_seq_len})",
        )


def check_branches(stages: list[Stage]) -> Iterator[Finding]:
    """Check that all stages of a chain train the same LongRoPE branch."""
    before: tuple[str, tuple[float, ...]] | None = None
    for stage in stages:
        factors = rope_factors_of(stage.model) if stage.model else None
        if factors is None:
            continue
        if before and before[1] != factors:
            yield Finding(
                "rope_branch",
                "error",
                f"{stage.name} trains another LongRoPE branch than {before[0]}",
                "each stage would unlearn the positions of the one before",
                "the same model.rope_factor in every stage",
                stage.name,
            )
        before = stage.name, factors


def check_room(stage: Stage, rows: int) -> Iterator[Finding]:
    """Check that RL's responses may be as long as those that the model learned from."""
    cfg, path = stage.cfg, stage.trained_on
    if not isinstance(cfg, RLConfig) or path is None or not Path(path).is_file():
        return
    try:
        tokenizer = open_tokenizer(stage)
        if tokenizer is None:
            return
        lengths = sorted(
            sum(label >= 0 for label in labels)
            for _, documents in documents_of(stage, tokenizer, path, rows)
            for _, labels in documents[:1]
        )
    except UserError:  # other checks report it
        return
    share = sum(length > cfg.max_new_tokens for length in lengths) / max(1, len(lengths))
    if share > SHORT:
        yield Finding(
            "max_new_tokens",
            "error" if share > FAR_TOO_SHORT else "warning",
            f"{share:.0%} of {len(lengths)} responses of {path}, which the model learned from, are "
            f"longer than max_new_tokens={cfg.max_new_tokens}",
            "a response that is cut off before its box counts as wrong, however right it was going to be",
            f"max_new_tokens={lengths[int(0.99 * (len(lengths) - 1))]} would take 99 % of them",
        )

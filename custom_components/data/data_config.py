"""Declare the keys of the rollout and curate recipes."""

from dataclasses import dataclass
from typing import Any, Literal

from custom_components.config import Component, option, required
from custom_components.data.decontamination import NGRAM, SIMILARITY
from custom_components.data.rows import file_and_rows
from custom_components.data.splits import SplitsConfig
from custom_components.runs.run_config import RunConfig, named_inputs
from custom_components.verifier.pool.options import VerifierConfig


@dataclass
class SamplingConfig:
    """Configure the sampling of responses."""

    temperature: float = option(0.6, "divisor of the logits; 0 is greedy")
    top_p: float = option(0.95, "probability mass of the nucleus")
    max_new_tokens: int = option(16_384, "longest response, tokens")


@dataclass
class OversampleConfig(VerifierConfig):
    """Configure further rounds for problems that have no correct rollout yet."""

    max_samples: int = option(0, "most responses for a problem; 0: one round without verification")


@dataclass
class RolloutConfig(RunConfig):
    """Configure recipes/rollout.py. Rows go to <output_dir>/rollouts/*.parquet."""

    problems: Component = required("function of custom_components.data that yields problems")
    engine: Component = required("rollout engine")
    tokenizer: Component | None = option(
        None, "chat tokenizer of the engine's model; null for an endpoint, which has its own"
    )
    samples_per_problem: int = option(8, "responses for each problem, in each round")
    sampling: SamplingConfig = option(SamplingConfig, "sampling of responses")
    oversample: OversampleConfig = option(OversampleConfig, "further rounds for hard problems")
    problems_per_shard: int = option(512, "problems in a Parquet shard")
    max_reject_share: float = option(0.01, "largest share of a shard's problems that may fail")
    engine_timeout: float = option(
        1800.0, "seconds without progress of the engine after which the run ends"
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto, cpu or cuda")

    def inputs(self) -> dict[str, str]:
        """Return the problems, the tokenizer and the engine's model."""
        return (
            named_inputs(self.problems, "problems", "path")
            | named_inputs(self.tokenizer, "tokenizer", "path")
            | named_inputs(self.engine, "engine", "model")
        )


@dataclass
class DecontaminationConfig:
    """Configure which problems may not be trained on (see data/decontamination.py)."""

    sets: list[str] = option(
        list,
        "evaluation sets in use: math500, aime24, ..., or JSONL files; test.jsonl[:200] is its first "
        "200 rows",
    )
    ngram: int = option(NGRAM, "words in a row that prove a copy")
    similarity: float = option(SIMILARITY, "least score of an altered copy")


@dataclass
class CurateConfig(RunConfig):
    """Configure recipes/curate.py. Splits go to <output_dir>/<split>.parquet."""

    sources: list[Any] = required("list of functions of custom_components.data.sources")
    verifier: VerifierConfig = option(VerifierConfig, "pool of the verifier, on every rank")
    given_verdicts: Literal["check", "trust"] = option(
        "check", "verdicts of the sources; check: verify them, too; trust: take them as they are"
    )
    judge: Component | None = option(
        None, "second opinion on rejected answers, in a column of its own (data.second_opinion)"
    )
    labeller: Component | None = option(
        None, "model that labels rows without domain or difficulty (data.labeller)"
    )
    decontamination: DecontaminationConfig = option(
        DecontaminationConfig, "problems that may not be trained on"
    )
    near_duplicates: float | None = option(
        0.7, "least similarity of near-duplicate problems; null: keep them all"
    )
    splits: SplitsConfig = option(SplitsConfig, "contents of the splits")
    chunk_rows: int = option(4096, "rows written at a time, which a kill may lose")
    max_reject_share: float = option(0.01, "largest share of rows that may be unusable")
    max_lost_files: int = option(0, "largest number of files that may be unreadable")

    def inputs(self) -> dict[str, str]:
        """Return the sources and the evaluation sets that are files."""
        paths = {}
        for i, source in enumerate(self.sources):
            paths |= named_inputs(source, f"sources.{i}", "path")
        return paths | {
            f"decontamination.sets.{i}": file_and_rows(name)[0]
            for i, name in enumerate(self.decontamination.sets)
        }

"""Declare the keys of the evaluate recipe."""

from dataclasses import dataclass

from custom_components.config import Component, UserError, nearest, option, required
from custom_components.runs.run_config import RunConfig, named_inputs
from custom_components.verifier.pool.options import VerifierConfig


@dataclass
class EvaluateConfig(RunConfig):
    """Configure recipes/evaluate.py."""

    models: dict[str, str] = required(
        "name: Hugging Face folder, hub id, or an endpoint's name for the model"
    )
    tasks: list[str] = required("lm-eval tasks, e.g. reasoning_gsm8k")
    engine: Component = required("rollout engine; the recipe fills in its model")
    tokenizer: Component | None = option(
        None,
        "chat tokenizer; the recipe fills in its path; null for an endpoint, which has its own",
    )
    problems: Component | None = option(
        None, "function of custom_components.data that yields the problems of task reasoning_own"
    )
    only: list[str] | None = option(None, "names of the models to evaluate; all by default")
    limit: int | None = option(
        None, "number of problems of each task, the first ones; all by default"
    )
    repeats: int | None = option(None, "samples of each problem; the task's own by default")
    sampling: dict[str, float] = option(
        dict, "temperature, top_p, max_gen_toks that replace the tasks' own"
    )
    verifier: VerifierConfig = option(VerifierConfig, "verifier processes")
    include_path: str = option("eval/tasks", "folder with more lm-eval tasks")
    group: int = option(
        256, "requests that go to the engine in one call, after which their responses are kept"
    )
    engine_timeout: float = option(
        1800.0, "seconds without progress of the engine after which the run ends"
    )

    def __post_init__(self) -> None:
        """Keep only the models of `only`; the others are not part of the run."""
        for name in self.only or []:
            if name not in self.models:
                raise UserError(f"only: no model {name!r}{nearest(name, list(self.models))}")
        if self.only is not None:
            self.models = {name: self.models[name] for name in self.only}

    def inputs(self) -> dict[str, str]:
        """Return the models and the user's own problems."""
        models = {f"models.{name}": path for name, path in self.models.items()}
        return models | named_inputs(self.problems, "problems", "path")

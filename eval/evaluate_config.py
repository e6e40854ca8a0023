"""Declare the keys of the evaluate recipe."""

from dataclasses import dataclass

from custom_components.config import Component, UserError, nearest, option, required
from custom_components.runs.run_config import RunConfig, named_inputs


@dataclass
class EvaluateConfig(RunConfig):
    """Configure recipes/evaluate.py."""

    models: dict[str, str] = required("name: Hugging Face folder, or hub id")
    tasks: list[str] = required("lm-eval tasks, e.g. reasoning_gsm8k")
    engine: Component = required("rollout engine; its model is filled in")
    tokenizer: Component | None = option(
        None, "chat tokenizer, its path is filled in; an endpoint has its own"
    )
    problems: Component | None = option(
        None, "function of custom_components.data that yields the problems of task reasoning_own"
    )
    only: list[str] | None = option(None, "names of the models to evaluate; all by default")
    limit: int | None = option(None, "first so many problems of each task; all by default")
    repeats: int | None = option(None, "samples of each problem; the task's own by default")
    sampling: dict[str, float] = option(
        dict, "temperature, top_p, max_gen_toks in place of the tasks' own"
    )
    include_path: str = option("eval/tasks", "folder with more lm-eval tasks")
    group: int = option(256, "requests that go to the engine together, and are then kept")
    engine_timeout: float = option(1800.0, "seconds without progress of the engine end the run")

    def __post_init__(self) -> None:
        """Keep the models of `only`: the others are no part of the run."""
        for name in self.only or []:
            if name not in self.models:
                raise UserError(f"only: no model {name!r}{nearest(name, list(self.models))}")
        if self.only is not None:
            self.models = {name: self.models[name] for name in self.only}

    def inputs(self) -> dict[str, str]:
        """Return the models and the user's own problems."""
        models = {f"models.{name}": path for name, path in self.models.items()}
        return models | named_inputs(self.problems, "problems", "path")

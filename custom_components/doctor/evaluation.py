"""Collect the problems of the evaluation, which may not be trained on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from custom_components.config import UserError, load
from eval.evaluate_config import EvaluateConfig
from eval.evaluation_tasks import EvaluationProblem, problems_of_evaluation


@dataclass
class EvaluationProblems:
    """Read the problems of an evaluation once, and only when a check needs them.

    Attributes:
        read: Function that yields the problems, and a `UserError` in place of those of a task that
            cannot be loaded.
        own_file: File of the user's own problems among them as `decontamination.sets` names it, if
            curate can read it; else empty.
        failures: Why problems could not be loaded; empty until `problems` is read.
    """

    read: Callable[[], Iterator[EvaluationProblem | UserError]] = lambda: iter(())
    own_file: str = ""
    failures: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, config: str, overrides: Sequence[str] = ()) -> "EvaluationProblems":
        """Return the problems of an evaluation's YAML with these `key=value` overrides."""
        try:
            node = load(EvaluateConfig, config, [*overrides, "models={}"]).problems or {}
        except UserError:  # reading the problems reports it
            node = {}
        path, column = str(node.get("path") or ""), node.get("problem", "problem")
        readable = Path(path).is_file() and column in ("problem", "question")
        rows = f"[:{node['limit']}]" if node.get("limit") else ""
        own_file = path + rows if readable and not node.get("offset") else ""
        return cls(partial(problems_of_evaluation, config, overrides), own_file)

    @cached_property
    def problems(self) -> list[EvaluationProblem]:
        """Read the problems that can be loaded; add to `failures` why the others cannot."""
        problems = []
        try:
            for item in self.read():
                if isinstance(item, UserError):
                    self.failures.append(str(item))
                else:
                    problems.append(item)
        except UserError as e:
            self.failures.append(str(e))
        return problems

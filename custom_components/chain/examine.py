"""Have the doctor examine a chain: before it starts, and before each stage."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from custom_components.chain.chain_config import ChainConfig
from custom_components.chain.plan import Action, Step, all_steps
from custom_components.config import UserError
from custom_components.doctor import EvaluationProblems, Finding, Stage, examine, refuse, show
from custom_components.rl.rl_config import RLConfig
from custom_components.runs.processes import TUNE, failure, shown_and_logged
from custom_components.training.training_config import MidtrainConfig, SFTConfig


def stages_of(cfg: ChainConfig) -> dict[str, Stage]:
    """Return all steps of a chain by name, as the doctor examines them."""
    stages, trained_on = {}, None
    for step in all_steps(cfg):
        ranks = cfg.doctor.ranks or step.nnodes * step.nproc_per_node
        stages[step.name] = Stage(step.name, step.recipe_name, step.cfg, ranks, trained_on)
        if isinstance(step.cfg, MidtrainConfig | SFTConfig):
            trained_on = step.cfg.data
    return stages


class ChainDoctor:
    """Examine the steps of a chain, and stop it on errors that are not allowed.

    Args:
        cfg: Config of the chain.
    """

    def __init__(self, cfg: ChainConfig) -> None:
        self.options = cfg.doctor
        self.evaluation = cfg.evaluation
        self.evaluation_overrides = cfg.evaluation_overrides
        self.logs = Path(cfg.run_dir) / "logs"
        self.problems = EvaluationProblems.of(cfg.evaluation, cfg.evaluation_overrides)
        # all stages: a chosen one may start from the output of one that was not chosen
        self.stages = stages_of(cfg)
        self.shown: set[Finding] = set()

    def stages_to_run(self, steps: Sequence[Step], actions: Sequence[Action]) -> list[Stage]:
        """Return the steps that the plan does not skip."""
        pairs = zip(steps, actions, strict=True)
        return [self.stages[step.name] for step, action in pairs if action.kind != "skip"]

    def examine(self, stages: list[Stage]) -> list[Finding]:
        """Examine what can be examined already of steps that will run, in order."""
        return examine(stages, self.options, self.problems, list(self.stages.values()))

    def before_all(self, steps: Sequence[Step], actions: Sequence[Action]) -> None:
        """Examine the chain before its first step.

        Raises:
            UserError: On errors that are not allowed by name.
        """
        if self.options.enabled:
            self._heed(self.examine(self.stages_to_run(steps, actions)))

    def before(self, step: Step) -> None:
        """Examine a step again, with the output of earlier steps.

        An RL stage is examined by recipes/doctor.py, whose engine frees its memory when the process
        ends.

        Raises:
            UserError: On errors that are not allowed by name.
        """
        if not self.options.enabled:
            return
        stage = self.stages[step.name]
        if isinstance(stage.cfg, RLConfig) and self.options.forecast_prompts:
            self._forecast(step, stage)
        else:
            # a copy, which looks for the stage's model again: it may have been written since
            self._heed(examine([replace(stage)], self.options, self.problems))

    def _forecast(self, step: Step, stage: Stage) -> None:
        options = {
            "recipe": stage.recipe,
            "stage": stage.name,
            "ranks": stage.ranks,
            "trained_on": stage.trained_on,
            "evaluation": self.evaluation,
            "evaluation_overrides": json.dumps(self.evaluation_overrides),
            "allow": f"[{','.join(self.options.allow)}]",
            "device": self.options.device,
            "memory_gib": self.options.memory_gib,
            "rows": self.options.rows,
            "forecast_prompts": self.options.forecast_prompts,
        }
        given = [f"doctor.{key}={value}" for key, value in options.items() if value is not None]
        arguments = ["--config", step.config, *step.overrides, *given]
        log = self.logs / f"doctor-{step.name}.log"
        if code := shown_and_logged([TUNE, "run", "recipes/doctor.py", *arguments], log):
            raise UserError(failure(f"the doctor's examination of stage {stage.name}", code, log))

    def _heed(self, findings: list[Finding]) -> None:
        new = [f for f in findings if f not in self.shown and f.level != "note"]
        self.shown |= set(new)
        show(new)
        refuse(findings, self.options.allow)

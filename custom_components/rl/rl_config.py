"""Declare the keys of the RL recipes."""

from dataclasses import dataclass
from typing import Literal

from custom_components.config import Component, option, required
from custom_components.losses.policy_gradient import LossConfig
from custom_components.rl.alarms import AlarmConfig
from custom_components.runs.run_config import named_inputs
from custom_components.training.training_config import TrainingConfig
from custom_components.verifier.options import VerifierConfig


@dataclass
class SelectionConfig:
    """Prompt selection before the first step, with the start model."""

    rounds: int = option(0, "sampling rounds; 0 keeps every prompt")
    samples: int = option(8, "responses to each prompt and round")
    statistic: Literal["length_cv", "length_range"] = option(
        "length_cv", "which statistic of a prompt's response lengths decides"
    )
    threshold: float = option(0.5, "largest value of the statistic")
    max_accuracy: float = option(1.0, "prompts with a higher pass rate are left out")


@dataclass
class RebalanceConfig:
    """Reward rebalancing."""

    enabled: bool = option(True, "keep every +1 and as many -1 of a group")
    max_accuracy: float = option(0.5, "groups with a larger share of +1 are dropped")
    max_samples: int = option(16, "a prompt without +1 is sampled again up to this many")


@dataclass
class TemperatureConfig:
    """Temperature annealing."""

    start: float = option(1.0, "at the first step")
    end: float = option(0.6, "when annealed")
    fraction: float = option(0.5, "share of the steps over which it falls linearly")


@dataclass
class HeldOutConfig:
    """Accuracy on held-out problems while training goes on."""

    every: int = option(0, "steps between evaluations; 0 for none")
    problems: Component | None = option(None, "function that yields problems not trained on")
    samples: int = option(1, "responses to each problem")
    temperature: float = option(0.6, "of these responses")
    top_p: float = option(0.95, "of these responses")
    keep_best: bool = option(True, "end with the weights of the highest accuracy, not the last")


@dataclass
class RLConfig(TrainingConfig):
    """Keys that GRPO and PPO share. A row of a batch is a prompt."""

    problems: Component = required("function of custom_components.data that yields problems")
    engine: Component = required("rollout engine; one per rank")
    group_size: int = option(8, "responses to each prompt and round")
    max_new_tokens: int = option(1024, "longest response, tokens")
    loss: LossConfig = option(LossConfig, "which policy gradient")
    minibatches: int = option(1, "optimizer steps per pass over a step's samples")
    update_epochs: int = option(1, "passes over a step's samples")
    importance_cap: float = option(2.0, "largest weight for the engine's other log-probs")
    selection: SelectionConfig = option(SelectionConfig, "prompt selection")
    temperature: TemperatureConfig = option(TemperatureConfig, "temperature annealing")
    verifier: VerifierConfig = option(VerifierConfig, "the verifier's pool")
    held_out: HeldOutConfig = option(HeldOutConfig, "accuracy on held-out problems")
    alarms: AlarmConfig = option(AlarmConfig, "when to speak up")
    engine_timeout: float = option(1800.0, "seconds without progress of the engine end the run")
    logged_samples: int = option(4, "responses of a step kept in samples.jsonl")

    def inputs(self) -> dict[str, str]:
        """Return the problems, the held-out problems, the engine's model and the start weights."""
        return (
            named_inputs(self.problems, "problems", "path")
            | named_inputs(self.held_out.problems, "held_out.problems", "path")
            | super().inputs()
            | named_inputs(self.engine, "engine", "model")
        )


@dataclass
class CriticConfig:
    """PPO's critic: a value head on the policy, and how advantages follow from it."""

    gamma: float = option(1.0, "discount of a token")
    lam: float = option(1.0, "of GAE: 1 trusts the reward, 0 the next token's value")
    lr: float = option(1e-3, "learning rate of the value head")
    coefficient: float = option(0.1, "weight of the value loss")
    clip: float = option(0.2, "largest change of a value in a step that the loss rewards")
    shapes_trunk: bool = option(False, "let the value loss train the decoder too")
    normalise: bool = option(True, "advantages of a step get mean 0 and standard deviation 1")


@dataclass
class OverlongConfig:
    """Over-long responses."""

    filter: bool = option(False, "leave truncated responses out of the update")
    buffer: int = option(0, "tokens below max_new_tokens over which the reward falls by 1; 0: none")


@dataclass
class GRPOConfig(RLConfig):
    """Config of recipes/grpo.py. A row of a batch is a prompt."""

    rebalance: RebalanceConfig = option(RebalanceConfig, "reward rebalancing")
    refill_rounds: int = option(
        0, "rounds in which prompts without contrast make room for others (DAPO)"
    )
    overlong: OverlongConfig = option(OverlongConfig, "over-long responses (DAPO)")


@dataclass
class PPOConfig(RLConfig):
    """Config of recipes/ppo.py. A row of a batch is a prompt."""

    critic: CriticConfig = option(CriticConfig, "value head and advantages")

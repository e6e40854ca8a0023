"""Declare the keys of the RL recipes."""

from dataclasses import dataclass
from typing import Any, Literal

from custom_components.config import Component, UserError, option, required
from custom_components.losses.policy_gradient import ImportanceConfig, LossConfig
from custom_components.rl.alarms import AlarmConfig
from custom_components.runs.run_config import named_inputs
from custom_components.training.training_config import TrainingConfig
from custom_components.verifier.pool.options import VerifierConfig


@dataclass
class SelectionConfig:
    """Configure the selection of prompts by the start model, before the first step."""

    rounds: int = option(0, "sampling rounds; 0 keeps every prompt")
    candidates: int | None = option(
        None, "prompts to sample, drawn at random; the others are left out; all by default", least=1
    )
    samples: int = option(8, "responses to each prompt in a round")
    statistic: Literal["length_cv", "length_range"] = option(
        "length_cv",
        "statistic of a prompt's response lengths that decides: standard deviation (length_cv) or "
        "range (length_range) over the mean",
    )
    threshold: float = option(0.5, "largest value of the statistic")
    max_accuracy: float = option(1.0, "largest pass rate; easier prompts are dropped")


@dataclass
class RebalanceConfig:
    """Configure reward rebalancing."""

    enabled: bool = option(True, "drop easy groups, and sample hard prompts again")
    equal: bool = option(
        True, "learn from as many incorrect responses of a group as correct ones; else from all"
    )
    max_accuracy: float = option(
        0.5, "largest share of correct responses; easier groups are dropped"
    )
    max_samples: int = option(
        16, "number of responses up to which a prompt without a correct one is sampled again"
    )


@dataclass
class TemperatureConfig:
    """Configure temperature annealing."""

    start: float = option(1.0, "temperature of the first step")
    end: float = option(0.6, "temperature after annealing")
    fraction: float = option(0.5, "share of the run over which the temperature falls linearly")


@dataclass
class HeldOutConfig:
    """Configure the accuracy on held-out problems while training goes on."""

    every: int = option(0, "steps between evaluations; 0 for none")
    problems: Component | None = option(None, "function that yields problems not trained on")
    samples: int = option(1, "responses to each problem")
    temperature: float = option(0.6, "sampling temperature of these responses")
    top_p: float = option(0.95, "nucleus mass of these responses")
    keep_best: bool = option(
        True, "export the weights with the highest accuracy instead of the last ones"
    )


VERIFIED = {"_component_": "custom_components.rl.rewards.verified"}


def full_reward(node: Any, key: str) -> dict[str, Any]:
    """Return a node of `reward` as {"function": its `_component_` node, "weight": number}.

    Args:
        node: `_component_` node, with or without a weight, or what this function returns.
        key: Key of the node, for messages.

    Raises:
        UserError: If it is neither.
    """
    if isinstance(node, dict) and node.keys() == {"function", "weight"}:
        return node
    if not isinstance(node, dict) or "_component_" not in node:
        raise UserError(f"{key} must name a reward function with {key}._component_=module.function")
    weight = node.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise UserError(f"{key}.weight must be a number, not {weight!r}")
    function = {name: value for name, value in node.items() if name != "weight"}
    return {"function": function, "weight": float(weight)}


@dataclass
class RLConfig(TrainingConfig):
    """Configure what GRPO and PPO share. A row of a batch is a prompt."""

    problems: Component = required("function of custom_components.data that yields problems")
    engine: Component = required("rollout engine; one per rank")
    group_size: int = option(8, "responses to each prompt in a round")
    max_new_tokens: int = option(1024, "longest response, tokens")
    reward: Any = option(
        None,
        "node that names a reward function, or a list of such nodes; beside the function's own "
        "arguments each may have a `weight`, 1 by default; without any, "
        "custom_components.rl.rewards.verified",
    )
    loss: LossConfig = option(LossConfig, "policy gradient")
    minibatches: int = option(1, "optimizer steps per pass over a step's samples")
    update_epochs: int = option(1, "passes over a step's samples")
    importance: ImportanceConfig = option(
        ImportanceConfig, "correction for the engine's different log-probs"
    )
    max_generated_tokens: int | None = option(
        None,
        "tokens to generate, those of selection included, but not those on held-out problems; the "
        "step that reaches it is the last; epochs are then ignored",
        least=1,
    )
    no_resampling_above: float = option(
        1.0, "pass rate above which a prompt is not sampled again; other prompts take its place"
    )
    selection: SelectionConfig = option(SelectionConfig, "prompt selection")
    temperature: TemperatureConfig = option(TemperatureConfig, "temperature annealing")
    verifier: VerifierConfig = option(VerifierConfig, "verifier processes")
    held_out: HeldOutConfig = option(HeldOutConfig, "accuracy on held-out problems")
    alarms: AlarmConfig = option(AlarmConfig, "thresholds of the alarms")
    engine_timeout: float = option(
        1800.0, "seconds without progress of the engine after which the run ends"
    )
    logged_samples: int = option(4, "responses of a step written to samples.jsonl")

    def __post_init__(self) -> None:
        """Refuse components without a builder, and bring `reward` into its full form.

        That is a list of {"function": `_component_` node, "weight": number}.
        """
        super().__post_init__()
        nodes = self.reward if isinstance(self.reward, list) else [self.reward or VERIFIED]
        self.reward = [full_reward(node, f"reward.{i}") for i, node in enumerate(nodes)]
        if not self.reward:
            raise UserError("reward=[] rewards nothing; name a function with _component_")

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
    """Configure PPO's critic, a value head on the policy, and the advantages it gives."""

    gamma: float = option(1.0, "discount per token")
    lam: float = option(
        1.0, "lambda of GAE: 1 trusts the reward, 0 trusts the value of the next token"
    )
    lr: float = option(1e-3, "learning rate of the value head")
    coefficient: float = option(0.1, "weight of the value loss")
    clip: float = option(0.2, "change of a value in a step beyond which the loss does not fall")
    shapes_trunk: bool = option(False, "let the value loss train the decoder too")
    normalise: bool = option(
        True, "scale the advantages of a step to mean 0 and standard deviation 1"
    )


@dataclass
class GRPOConfig(RLConfig):
    """Configure recipes/grpo.py. A row of a batch is a prompt."""

    rebalance: RebalanceConfig = option(RebalanceConfig, "reward rebalancing")
    refill_rounds: int = option(
        0,
        "rounds in which other prompts make up for those that nothing is learned from: too easy "
        "ones, and those whose rewards are all equal (DAPO)",
    )
    overlong_filter: bool = option(False, "leave truncated responses out of the update (DAPO)")
    contrast: Literal["reward", "verdict"] = option(
        "reward", "what has to differ in a group for anything to be learned from it"
    )


@dataclass
class PPOConfig(RLConfig):
    """Configure recipes/ppo.py. A row of a batch is a prompt."""

    critic: CriticConfig = option(CriticConfig, "value head and advantages")

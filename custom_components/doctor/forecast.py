"""Forecast the rollouts of an RL stage, from responses to a few of its prompts."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

from custom_components.config import UserError, instantiate
from custom_components.data.problems import read_problems
from custom_components.doctor.findings import Finding, duration
from custom_components.engines.engine import Sampling
from custom_components.engines.watchdog import WatchedEngine
from custom_components.rl.groups import Group
from custom_components.rl.rewards import read_rewards
from custom_components.rl.rl_config import RLConfig
from custom_components.rl.sampler import reward_groups, sample_round, verify_groups

CUT = 0.3
ALMOST_ALL_CUT = 0.9
"""Shares of the responses that are cut off: warning, error."""
FEW_USEFUL = 0.25
"""Share of the groups with contrast below which there are few."""


def forecast(cfg: RLConfig, ranks: int, prompts: int) -> Iterator[Finding]:
    """Sample a group of responses to each of a few prompts with the start model, verify and reward them.

    Args:
        cfg: Config of an RL stage whose start model exists.
        ranks: Number of its processes, each with an engine.
        prompts: Number of prompts.

    Raises:
        UserError: When engine, tokenizer, problems or reward functions cannot be used.
    """
    rewards = read_rewards(cfg.reward)
    problems, _ = read_problems(instantiate(cfg.problems, "problems"))
    rng = random.Random(f"{cfg.seed} forecast")
    tokenizer = instantiate(cfg.tokenizer, "tokenizer")
    engine = WatchedEngine(cfg.engine, tokenizer, cfg.engine_timeout)
    with closing(engine):
        groups = [Group.of(p, tokenizer) for p in rng.sample(problems, min(prompts, len(problems)))]
        sampling = Sampling(cfg.temperature.start, 1.0, cfg.max_new_tokens, rng.getrandbits(48))
        began = time.perf_counter()
        sample_round(groups, cfg.group_size, sampling, engine, tokenizer)
        seconds = time.perf_counter() - began
    with cfg.verifier.open() as pool:
        verify_groups(groups, pool)
    reward_groups(groups, rewards, cfg.max_new_tokens)
    samples = [s for group in groups for s in group.samples]
    yield from check_groups(groups, cfg.max_new_tokens)
    tokens = sum(len(s.completion.token_ids) for s in samples)
    if cfg.max_steps:
        rest = cfg.max_steps * cfg.batch_size * cfg.group_size * tokens / len(samples)
        needed = rest / (tokens / seconds) / ranks
        yield Finding(
            "time",
            "note",
            f"rollouts take about {duration(needed)}",
            f"{tokens / seconds:.0f} tokens/s, {tokens / len(samples):.0f} tokens a response; "
            "selection, oversampling and refilling come on top, and larger batches are faster",
            "",
        )


def check_groups(groups: list[Group], max_new_tokens: int) -> Iterator[Finding]:
    """Yield the findings on rewarded groups.

    Args:
        groups: Groups of responses with their verdicts and rewards.
        max_new_tokens: Longest response, tokens.

    Raises:
        UserError: When there is no response.
    """
    samples = [s for group in groups for s in group.samples]
    if not samples:
        raise UserError("the forecast has no response to verify; raise doctor.forecast_prompts")
    cut = sum(s.truncated for s in samples) / len(samples)
    if cut > CUT:
        yield Finding(
            "max_new_tokens",
            "error" if cut > ALMOST_ALL_CUT else "warning",
            f"{cut:.0%} of {len(samples)} responses reach max_new_tokens={max_new_tokens}",
            "a response that is cut off before its box counts as wrong, however right it was going to be",
            "raise max_new_tokens, or train longer on complete responses first",
        )
    undecided = sum(s.verdict == "undecided" for s in samples)
    if undecided:
        yield Finding(
            "gold_unreadable",
            "warning",
            f"{undecided} of {len(samples)} responses are undecided",
            "they are sampled, paid for and left out",
            "fix the answers of these problems",
        )
    errors = Counter(s.outcome.error for s in samples if s.outcome and s.outcome.error)
    if errors:
        error, _ = errors.most_common(1)[0]
        yield Finding(
            "reward",
            "warning",
            f"a reward function fails on {errors.total()} of {len(samples)} responses, e.g. {error}",
            "they are sampled, paid for and left out",
            "correct the function; it may return None for a response that it cannot judge",
        )
    useful = sum(group.mixed for group in groups)
    right = sum(group.accuracy == 1 for group in groups)
    wrong = sum(group.accuracy == 0 for group in groups)
    few = useful < FEW_USEFUL * len(groups)
    remedy = "easier problems, rebalance.max_samples for hard ones, or more SFT"
    yield Finding(
        "zero_variance",
        "warning" if few else "note",
        f"{useful} of {len(groups)} groups hold responses with different rewards; {right} are all "
        f"right, {wrong} all wrong",
        "groups without contrast have no gradient",
        remedy if few else "",
    )

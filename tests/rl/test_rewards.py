"""Check reward functions: the built-in ones by hand, and a user's with all its faults."""

import sys

import pytest
from samples import VERIFIED, group, sample

from custom_components.config import UserError, load
from custom_components.engines.engine import Completion
from custom_components.rl.groups import Group, Sample
from custom_components.rl.rewards import (
    Response,
    Reward,
    RewardFunction,
    overlong_penalty,
    read_rewards,
    reward_of,
    verified,
)
from custom_components.rl.rl_config import GRPOConfig
from custom_components.rl.sampler import reward_groups, verify_groups
from custom_components.verifier import VerifierPool

MODULE = """
from fractions import Fraction

def credit(problem, response, per_token=0.5, unit="none"):
    if response.text == "silent":
        return None
    if response.text == "broken":
        return problem["missing"]
    if response.text == "endless":
        return float("inf")
    return Fraction(response.length) * per_token

def no_response(problem):
    return 1.0
"""


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory):
    """Put a user's module beside the configs."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "own_rewards.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def response(verdict="correct", length=5, truncated=False, text="x"):
    return Response(text, length, 100, truncated, verdict)


@pytest.mark.parametrize(
    ("verdict", "truncated", "expected"),
    [
        ("correct", False, 1.0),
        ("incorrect", False, -1.0),
        ("correct", True, -1.0),
        ("incorrect", True, -1.0),
        ("undecided", False, None),
        ("undecided", True, None),
    ],
)
def test_the_verdict_as_a_reward(verdict, truncated, expected):
    assert verified({}, response(verdict, truncated=truncated)) == expected


def test_a_cut_off_response_with_the_right_box_and_a_copy_of_the_problem_are_wrong():
    """Through the verifier, whose verdict on the first one stays correct."""
    cases = [
        ("5", "5+0=?", r"Okay, first \boxed{5}? wait, let me", "length"),
        ("5", "5+0=?", r"so \boxed{5}", "stop"),
        ("(x-1)(x+1)", "Factor $x^2-1$.", r"\boxed{x^2-1}", "stop"),
        ("(x-1)(x+1)", "Factor $x^2-1$.", r"\boxed{(x+1)(x-1)}", "stop"),
    ]
    groups = [
        Group({"answer": a, "problem": p}, [], [Sample([], Completion([], [], finish), text)])
        for a, p, text, finish in cases
    ]
    with VerifierPool(1) as pool:
        verify_groups(groups, pool)
    reward_groups(groups, VERIFIED, limit=100)
    assert groups[0].samples[0].verdict == "correct" and not groups[0].samples[0].correct
    assert [g.samples[0].reward for g in groups] == [-1, 1, -1, 1]


def test_the_length_penalty_by_hand():
    """Limit 100, buffer 20: nothing up to 80 tokens, -1/2 at 90, -1 at 100 and above."""
    lengths = (10, 80, 85, 90, 100, 120)
    penalties = [overlong_penalty({}, response(length=n), buffer=20) for n in lengths]
    assert penalties == [0, 0, -0.25, -0.5, -1, -1]


def nodes(*overrides):
    """Return `reward` as a config with these overrides has it."""
    return load(GRPOConfig, "configs/tiny/grpo.yaml", list(overrides)).reward


def test_the_verdict_is_the_reward_by_default():
    [reward] = read_rewards(nodes())
    assert (reward.name, reward.weight) == ("verified", 1.0)
    assert reward.function({}, response()) == 1


def test_several_functions_with_weights():
    functions = read_rewards(
        nodes(
            "reward=[{_component_: custom_components.rl.rewards.verified}, "
            "{_component_: own_rewards.credit, weight: 0.2, per_token: 2}, "
            "{_component_: own_rewards.credit, weight: -1}]"
        )
    )
    assert [f.name for f in functions] == ["verified", "credit", "credit_2"]
    # 1 + 0.2 * 5 * 2 - 5 * 0.5
    assert reward_of(functions, {}, response()) == Reward(0.5, [1.0, 10.0, 2.5])
    single = read_rewards(nodes("reward={_component_: own_rewards.credit, weight: 3}"))
    assert reward_of(single, {}, response()) == Reward(7.5, [2.5])


def test_a_config_is_the_same_after_a_round_trip():
    first = nodes("reward={_component_: own_rewards.credit, weight: 2}")
    assert first == [{"function": {"_component_": "own_rewards.credit"}, "weight": 2.0}]
    assert nodes("reward=[{function: {_component_: own_rewards.credit}, weight: 2.0}]") == first


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("reward={_component_: own_rewards.credits}", "did you mean 'credit'?"),
        ("reward={_component_: own_rewards.credit, per: 1}", "takes no argument 'per'"),
        ("reward={_component_: own_rewards.credit, weight: much}", "weight must be a number"),
        ("reward=verified", "must name a reward function"),
        ("reward=[]", "rewards nothing"),
        ("reward={_component_: own_rewards.no_response}", "must be a function of the problem"),
        (
            "reward={_component_: custom_components.rl.rewards.overlong_penalty}",
            "missing a required argument: 'buffer'",
        ),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_at_once(override, words):
    with pytest.raises(UserError, match=words):
        read_rewards(nodes(override))


def test_none_and_exceptions_are_named_and_leave_the_response_out():
    functions = [*VERIFIED, *read_rewards(nodes("reward={_component_: own_rewards.credit}"))]
    texts = ("fine", "silent", "broken", "endless")
    made = group(*(sample("correct", text=text) for text in texts), functions=functions)
    outcomes = [s.outcome for s in made.samples]
    assert [o.total for o in outcomes] == [2.0, None, None, None]
    assert [o.values for o in outcomes] == [[1.0, 1.0], [1.0, None], [1.0, None], [1.0, None]]
    assert [o.error for o in outcomes[:3]] == [
        "",
        "",
        "credit: KeyError: 'missing' (own_rewards.py, line 8)",
    ]
    assert "credit: ValueError: returned inf, which is not a finite number" in outcomes[3].error
    assert made.rewarded == made.samples[:1]


def test_a_function_that_always_fails_ends_the_run():
    broken = [RewardFunction("broken", lambda problem, response: problem["x"], 1.0)]
    with pytest.raises(UserError, match="fails on each of 2 responses; broken: KeyError: 'x'"):
        group("correct", "incorrect", functions=broken)

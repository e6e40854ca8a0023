"""Check when the alarms of an RL run are raised."""

import pytest

from custom_components.rl.alarms import AlarmConfig, Alarms

FINE = {"accuracy": 0.5, "truncated": 0.0, "undecided": 0.0, "entropy": 0.3, "logprob_gap": 0.001}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"accuracy": 0.0, "truncated": 0.95}, "raise max_new_tokens"),
        ({"entropy": 1e-5}, "entropy"),
        ({"logprob_gap": 0.5}, "disagree"),
        ({"undecided": 0.2}, "undecided"),
    ],
)
def test_each_alarm_is_raised_once_while_it_lasts(change, word):
    alarms = Alarms(AlarmConfig())
    assert alarms.check(FINE) == []
    [message] = alarms.check(FINE | change)
    assert word in message
    assert alarms.check(FINE | change) == []
    assert alarms.check(FINE) == []
    assert alarms.check(FINE | change) == [message]


def test_a_resumed_run_does_not_repeat_an_alarm():
    alarms = Alarms(AlarmConfig())
    assert alarms.check(FINE | {"undecided": 0.2})
    resumed = Alarms(AlarmConfig(), **alarms.state())
    assert resumed.check(FINE | {"undecided": 0.2}) == []


def test_steps_without_a_positive_are_counted_in_a_row():
    alarms = Alarms(AlarmConfig(steps_without_positive=3))
    nothing = FINE | {"accuracy": 0.0}
    assert alarms.check(nothing) == alarms.check(nothing) == alarms.check(FINE) == []
    assert alarms.check(nothing) == alarms.check(nothing) == []
    [message] = alarms.check(nothing)
    assert "no correct response for 3 steps" in message


def test_a_step_without_an_update_raises_no_alarm_about_its_entropy():
    assert Alarms(AlarmConfig()).check({"accuracy": 1.0, "truncated": 0.0, "undecided": 0.0}) == []


def test_a_failing_reward_function_is_named_once_while_it_fails():
    """However its messages differ."""
    alarms = Alarms(AlarmConfig())
    errors = ["short: KeyError: 'a' (own.py, line 3)", "short: KeyError: 'b' (own.py, line 3)"]
    assert alarms.check(FINE, errors) == [
        "reward function short fails on 2 responses, which are left out; " + errors[0]
    ]
    assert alarms.check(FINE, errors[1:]) == []
    resumed = Alarms(AlarmConfig(), **alarms.state())
    assert resumed.check(FINE, errors) == []
    assert resumed.check(FINE) == []
    assert len(resumed.check(FINE, ["short: x", "long: y"])) == 2

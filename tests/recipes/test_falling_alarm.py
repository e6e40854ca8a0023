from recipes.dpo import FallingAlarm


def spoken(values, window=2):
    alarm = FallingAlarm(window)
    return [bool(alarm.check(v)) for v in values]


def test_it_speaks_when_four_windows_fall_in_a_row():
    falling = [-10, -11, -12, -13, -14, -15, -16, -17]
    assert spoken(falling) == [False] * 7 + [True]
    assert not any(spoken(falling[:7]))
    assert not any(spoken([-10, -11, -12, -13, -12, -12, -16, -17]))  # it rose in between
    assert not any(spoken(falling[::-1]))
    assert not any(spoken(falling, window=0))


def test_what_it_says_names_the_figures_and_what_to_do():
    alarm = FallingAlarm(1)
    for value in (-1.0, -2.0, -3.0):
        assert alarm.check(value) is None
    said = alarm.check(-4.0)
    assert "(-1.0 to -4.0 over 4 steps)" in said and "lower optimizer.lr" in said

"""Write figures as text: percentages, differences, p-values."""


def percent(value: float, ci: list[float] | None = None) -> str:
    """Return a share as `12.3 [10.1, 14.8]`, in percent."""
    text = f"{100 * value:.1f}"
    return f"{text} [{100 * ci[0]:.1f}, {100 * ci[1]:.1f}]" if ci else text


def signed(value: float, ci: list[float]) -> str:
    """Return a difference as `+5.0 [+1.2, +8.7]`, in percentage points."""
    return f"{100 * value:+.1f} [{100 * ci[0]:+.1f}, {100 * ci[1]:+.1f}]"


def p_value(p: float) -> str:
    """Return a p-value as `0.013` or `< 0.001`."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"

"""Draw plots as inline SVG.

Colours are classes of report.css, so they follow the reader's theme.
"""

import math
from html import escape

WIDTH, HEIGHT = 320, 150
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 8, 20
MAX_POINTS = 200

Series = list[tuple[float, float]]


def line_chart(title: str, series: list[Series], from_zero: bool = False) -> str:
    """Draw one or several curves over the steps; a single noisy one with its running mean.

    Args:
        title: title for readers who cannot see the chart.
        series: curves of finite points (step, value), with at least one point in all.
        from_zero: whether the vertical axis begins at 0, unless a value is below.
    """
    points = [point for curve in series for point in curve]
    xs, ys = zip(*points, strict=True)
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    y_low, y_high = min(ys), max(ys)
    if from_zero and y_low > 0:
        y_low = 0.0
    if y_high - y_low < 1e-12 * max(1.0, abs(y_high)):  # flat
        room = 0.5 * (abs(y_low) or 1)
        y_low, y_high = (0.0 if from_zero and y_low >= 0 else y_low - room), y_high + room
    ticks = nice_ticks(y_low, y_high, 4)
    y_low, y_high = min(y_low, ticks[0]), max(y_high, ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        up = (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return LEFT + across, HEIGHT - BOTTOM - up

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<title>{escape(title)}</title>"
    ]
    for tick in ticks:
        _, y = place(x_low, tick)
        parts.append(
            f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
            f'<text class="y" x="{LEFT - 5}" y="{y + 3:.1f}">{short(tick)}</text>'
        )
    for tick in nice_ticks(x_low, x_high, 4):
        x, _ = place(tick, y_low)
        if tick == round(tick) and x_low <= tick <= x_high:
            parts.append(f'<text class="x" x="{x:.1f}" y="{HEIGHT - 5}">{short(tick)}</text>')
    for number, curve in enumerate(series):
        if len(series) == 1 and is_noisy(curve):
            parts.append(_polyline([place(*p) for p in thinned(curve)], "raw"))
            curve = running_mean(curve)
        placed = [place(*p) for p in thinned(curve)]
        if len(placed) == 1:
            x, y = placed[0]
            parts.append(f'<circle class="s{number}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>')
        else:
            parts.append(_polyline(placed, f"s{number}"))
    return "".join([*parts, "</svg>"])


def _polyline(placed: Series, name: str) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    return f'<polyline class="{name}" points="{points}"/>'


def thinned(curve: Series, max_points: int = MAX_POINTS) -> Series:
    """Return at most `max_points` points, the means of stretches of equal length."""
    if len(curve) <= max_points:
        return curve
    bounds = [len(curve) * i // max_points for i in range(max_points + 1)]
    return [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part))
        for part in (curve[a:b] for a, b in zip(bounds, bounds[1:], strict=False))
    ]


def is_noisy(curve: Series) -> bool:
    """Tell whether a curve is long, and moves up and down more than it moves on."""
    values = [y for _, y in curve]
    way = sum(abs(b - a) for a, b in zip(values, values[1:], strict=False))
    return len(curve) > 40 and way > 4 * (max(values) - min(values))


def running_mean(curve: Series) -> Series:
    """Return at each point the mean over the window before it, a twentieth of all points wide."""
    width = max(1, len(curve) // 20)
    total = 0.0
    means: Series = []
    for i, (x, y) in enumerate(curve):
        total += y - (curve[i - width][1] if i >= width else 0.0)
        means.append((x, total / min(i + 1, width)))
    return means


def nice_ticks(low: float, high: float, steps: int) -> list[float]:
    """Return round numbers that cover [low, high] with about this number of steps."""
    rough = (high - low) / steps
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, last + 1)]


def short(value: float) -> str:
    """Return a number for an axis: `0.25`, `20k`, `3e-5`."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.4g}{letter}"
    if 0 < abs(value) < 0.01:
        digits, power = f"{value:.3e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:.4g}"


def interval(
    value: float, ci: list[float], low: float, high: float, marks: list[float] | None = None
) -> str:
    """Draw a dot with its whiskers, for a cell of a table.

    Args:
        value, ci: positions of the dot and of the whiskers' ends.
        low, high: ends of the axis that all rows share.
        marks: positions of faint vertical lines.
    """

    def at(x: float) -> str:
        return f"{100 * (min(max(x, low), high) - low) / (high - low):.2f}%"

    lines = "".join(
        f'<line class="grid" x1="{at(m)}" x2="{at(m)}" y1="0" y2="22"/>' for m in marks or []
    )
    return (
        f'<svg class="interval" aria-hidden="true">{lines}'
        f'<line class="whisker" x1="{at(ci[0])}" x2="{at(ci[1])}" y1="11" y2="11"/>'
        f'<circle class="dot" cx="{at(value)}" cy="11" r="4"/></svg>'
    )


def axis(low: float, high: float, marks: list[float]) -> str:
    """Draw the labels of `interval`'s axis for the table's head; `marks` are shares of 1."""
    texts = "".join(
        f'<text x="{100 * (m - low) / (high - low):.2f}%" y="14">{100 * m:g}</text>' for m in marks
    )
    return f'<svg class="interval axis" aria-hidden="true">{texts}</svg>'

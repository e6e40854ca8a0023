"""Temperature annealing, the paper's third fix."""


def annealed_temperature(step: int, steps: int, start: float, end: float, fraction: float) -> float:
    """Temperature of a step: linear from `start` to `end`, then `end`.

    Args:
        step: steps done so far (0 for the first).
        steps: of the whole run.
        start, end: first and last temperature.
        fraction: share of the steps over which it falls.
    """
    falling = fraction * steps
    if step >= falling:
        return end
    return start + (end - start) * step / falling

"""What to watch in preference training."""


class FallingAlarm:
    """Speaks up when the chosen responses keep getting less likely: DPO may lower both sides and
    still widen the margin, until the model forgets how to write either.

    Args:
        window: steps that are averaged; 0 never speaks.
    """

    def __init__(self, window: int) -> None:
        self.window, self.values = window, []

    def check(self, logprob_chosen: float) -> str | None:
        """Take in a step's mean log-prob of the chosen responses; an alarm's text, or None."""
        self.values.append(logprob_chosen)
        n = self.window
        if not n or len(self.values) < 4 * n or len(self.values) % n:
            return None
        means = [sum(self.values[-i * n :][:n]) / n for i in (4, 3, 2, 1)]
        if not means[0] > means[1] > means[2] > means[3]:
            return None
        return (
            f"the log-prob of the chosen responses keeps falling ({means[0]:.1f} to {means[3]:.1f} "
            f"over {4 * n} steps): lower optimizer.lr, raise beta, or add nll_weight"
        )

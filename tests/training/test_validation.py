"""Check when a validation loss ends a run."""

import math
import random

import pytest
from conftest import ROOT

from custom_components.config import load
from custom_components.training.training_config import MidtrainConfig
from custom_components.training.validation import BestSoFar

STEPS = 71_500  # 30B tokens of 128 packs of 16K, five times


def stops_at(cfg, noise, seed):
    """Return the share of the run that is done when a slowly falling, noisy loss ends it."""
    rng, progress = random.Random(seed), BestSoFar()
    for step in range(cfg.every, STEPS + 1, cfg.every):
        loss = 0.45 + 0.3 * (step / 1000) ** -0.4 + rng.gauss(0, noise)
        progress.update(step, loss, cfg.min_delta)
        if progress.waited >= cfg.patience > 0:
            return step / STEPS
    return 1.0


@pytest.mark.parametrize("noise", [0.0003, 0.001, 0.002])
def test_the_noise_of_a_validation_does_not_end_the_papers_mid_training(noise):
    """With patience 3 most runs would stop within two thirds of their steps."""
    cfg = load(MidtrainConfig, ROOT / "configs" / "phi4_mini" / "midtrain.yaml", []).validation
    assert [stops_at(cfg, noise, seed) for seed in range(20)] == [1.0] * 20
    assert not cfg.keep_best  # The last weights are annealed.
    cfg.patience = 3
    stops = sorted(stops_at(cfg, noise, seed) for seed in range(20))
    assert stops[10] < 2 / 3


def test_patience_counts_validations_without_a_lower_loss():
    progress = BestSoFar()
    falls = [progress.update(i, loss, 0.1) for i, loss in enumerate((3.0, 2.95, 2.8, 2.85))]
    assert falls == [True, False, True, False]
    assert (progress.best, progress.best_step, progress.waited) == (2.8, 2, 1)
    assert math.isinf(BestSoFar().best)

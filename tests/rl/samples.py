"""Make samples and groups for the tests of this folder."""

from custom_components.engines.engine import Completion
from custom_components.rl.groups import Group, Sample
from custom_components.rl.rewards import RewardFunction, verified
from custom_components.rl.sampler import reward_groups

VERIFIED = [RewardFunction("verified", verified, 1.0)]


def sample(verdict="", length=2, finish_reason="stop", text=""):
    """Return a sample of `length` tokens 2, without a reward."""
    completion = Completion([2] * length, [-0.1] * length, finish_reason)
    return Sample([1], completion, text, verdict)


def group(*verdicts, functions=VERIFIED):
    """Return a rewarded group with a sample for each verdict, or the samples themselves."""
    samples = [v if isinstance(v, Sample) else sample(v) for v in verdicts]
    made = Group({"id": "a", "problem": "1+1=?", "answer": "2"}, [1], samples)
    reward_groups([made], functions, limit=10)
    return made

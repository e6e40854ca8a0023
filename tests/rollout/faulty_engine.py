"""Engines that fail in the ways engines do, for tests/recipes/test_grpo.py."""

import time

from custom_components.rollout.torch_engine import TorchEngine


class Stalls(TorchEngine):
    def generate(self, prompt_ids, n, sampling):
        if self.version >= 1:
            time.sleep(3600)
        return super().generate(prompt_ids, n, sampling)


class Crashes(TorchEngine):
    def generate(self, prompt_ids, n, sampling):
        if self.version >= 1:
            raise RuntimeError("the engine's process\nwent away")
        return super().generate(prompt_ids, n, sampling)


class NeverStarts:
    def __init__(self, model, tokenizer, batch_size=1, progress=False):
        time.sleep(3600)

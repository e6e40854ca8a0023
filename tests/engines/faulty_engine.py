"""Fail in the ways engines do, for tests/recipes/test_grpo.py."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

from custom_components.engines.torch_engine import TorchEngine


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

    def close(self):
        print("the engine is closed")
        super().close()


class NeverStarts:
    def __init__(self, model, tokenizer, batch_size=1, progress=False):
        time.sleep(3600)


class Dies(TorchEngine):
    """Kill the process once, in the fourth step: while it samples, or just after."""

    def __init__(self, model, tokenizer, marker, after=False):
        super().__init__(model, tokenizer, progress=False)
        self.marker = Path(marker)
        self.after = after

    def generate(self, prompt_ids, n, sampling):
        now = self.version == 3 and not self.marker.exists()
        if now:
            self.marker.touch()
            if not self.after:
                self._die()
        completions = super().generate(prompt_ids, n, sampling)
        if now:  # in a moment, while the responses are verified
            threading.Timer(0.003, self._die).start()
        return completions

    def _die(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Forgetful(TorchEngine):
    """Sample by the clock, so that runs differ, as with engines that take no seed."""

    def generate(self, prompt_ids, n, sampling):
        seed = time.time_ns() % (1 << 40)
        return super().generate(prompt_ids, n, replace(sampling, seed=seed))

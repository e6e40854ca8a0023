"""Run GRPO on two ranks, of which one samples for longer than a collective may take.

torchrun --nproc_per_node 2 tests/recipes/slow_rank.py --config ... [overrides]
"""

import os
import time
from datetime import timedelta

from custom_components.engines.torch_engine import TorchEngine
from custom_components.training import distributed
from recipes import grpo

distributed.LOST_AFTER = timedelta(seconds=5)
generate = TorchEngine.generate


def slow_generate(self, *args):
    """Sample 12 s late on rank 1, once the run trains."""
    if os.environ["RANK"] == "1" and self.version:
        time.sleep(12)
    return generate(self, *args)


TorchEngine.generate = slow_generate
if __name__ == "__main__":
    grpo.main()

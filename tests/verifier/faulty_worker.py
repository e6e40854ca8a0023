"""Run the real worker, which here fails when the response tells it to (test_pool.py)."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from custom_components.verifier import decide as module
from custom_components.verifier.compare import expressions
from custom_components.verifier.pool import worker

_decide, _check_gold = module.decide, module.check_gold


def _obey(text: str) -> None:
    if "HANG" in text:
        while True:
            time.sleep(0.01)
    if "SLEEP" in text:
        time.sleep(0.8)
    if "SPIN" in text:
        while True:
            pass
    if "IN C" in text:
        sum(range(10**14))
    if "EAT" in text:
        hoard = []
        while True:
            hoard.append(bytearray(1 << 24))
    if "DIE" in text:
        os.kill(os.getpid(), signal.SIGKILL)
    if "RAISE" in text:
        raise RuntimeError("a bug")
    if "PRINT" in text:
        print("noise on stdout", flush=True)
        os.write(1, b"more noise\n")
    if "ONCE " in text:  # fail the first time only
        mark = Path(text.split("ONCE ")[1].split(" ")[0])
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def decide(item):
    _obey(item.gold)
    _obey(item.response)
    return _decide(item)


def check_gold(gold, choices=None):
    _obey(gold)
    return _check_gold(gold, choices)


module.decide, module.check_gold = decide, check_gold
expressions.load = lambda: None  # the worker starts in a tenth of the time
sys.argv[0] = worker.__file__
worker.main()

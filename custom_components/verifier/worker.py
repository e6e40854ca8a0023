"""One worker process of VerifierPool: `python -m custom_components.verifier.worker`.

Reads one JSON list of tasks per line on stdin, writes one JSON line per task on its original
stdout as soon as that task is decided. The parent enforces the time limit by killing this
process; what is here are the backstops for a parent that is gone.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import resource
import signal
import sys
import threading
import time
from typing import Any

from custom_components.verifier.types import Item, Verdict


def _watch_parent(parent: int) -> None:
    """Ends this process when its parent is gone.

    PR_SET_PDEATHSIG would fire when the *thread* that started the worker ends, and an end of file
    on stdin never comes while a fork of the parent holds the pipe; so the parent's id is polled.
    """
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


def _private_stdout() -> Any:
    """The pipe to the parent; file descriptor 1 becomes stderr so that no print corrupts it."""
    pipe = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    return pipe


def _run(task: dict[str, Any]) -> dict[str, Any]:
    from custom_components.verifier.decide import check_gold, decide

    try:
        if "check_gold" in task:
            return {"gold": check_gold(task["check_gold"], task.get("choices"))}
        verdict = decide(Item.of(task["item"]))
    except MemoryError:
        return {"memory": True}
    return {"verdict": [verdict.verdict, verdict.reason, verdict.prediction]}


def as_verdict(result: dict[str, Any]) -> Verdict:
    """The Verdict in a worker's result line."""
    return Verdict(*result["verdict"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--memory", type=int, default=0, help="address space in bytes, 0: no cap")
    parser.add_argument("--hard-limit", type=float, default=0.0, help="seconds for one task")
    args = parser.parse_args()

    threading.Thread(target=_watch_parent, args=(args.parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the parent, which closes us
    pipe = _private_stdout()
    logging.disable(logging.CRITICAL)
    sys.set_int_max_str_digits(20_000)

    from custom_components.verifier import symbolic

    symbolic.load()
    if args.memory:
        resource.setrlimit(resource.RLIMIT_AS, (args.memory, args.memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe.write(json.dumps({"ready": time.process_time()}) + "\n")

    for line in sys.stdin:
        for task in json.loads(line):
            # SIGALRM's default action ends the process even inside one long C call.
            signal.setitimer(signal.ITIMER_REAL, args.hard_limit)
            result = _run(task)
            signal.setitimer(signal.ITIMER_REAL, 0)
            result["cpu"] = time.process_time()
            pipe.write(json.dumps(result) + "\n")
            if "memory" in result:
                return  # a process that hit its cap is not trusted with another task
        gc.collect(0)


if __name__ == "__main__":
    main()

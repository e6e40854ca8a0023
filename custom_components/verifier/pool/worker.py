"""Run as the worker processes of VerifierPool: `python -m custom_components.verifier.pool.worker`.

One process loads the computer algebra and then only forks: each fork is a worker that starts in
milliseconds, so that replacing a killed worker costs next to nothing. The pool asks for a fork over
a socket, handing over the two pipes of the new worker, and asks for kills the same way.

A worker reads one JSON list of tasks per line and writes one JSON line per task as soon as it is
decided. The pool enforces the time limit by killing the worker; the limits set here only guard
against a pool that is gone.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from typing import Any

from custom_components.verifier.types import Item, Verdict

_POLL = 0.5  # seconds between looks at whether the parent is alive


def main() -> None:
    """Load the computer algebra, then fork workers until the pool is gone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True, help="process id of the pool")
    parser.add_argument("--socket", type=int, required=True, help="file descriptor")
    parser.add_argument("--memory", type=int, default=0, help="address space in bytes, 0: no cap")
    parser.add_argument("--hard-limit", type=float, default=0.0, help="seconds for one task")
    args = parser.parse_args()

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the pool, which ends this process
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    sys.set_int_max_str_digits(20_000)

    from custom_components.verifier.compare import expressions

    expressions.load()
    gc.collect()
    gc.freeze()  # keeps the loaded modules shared between the forks
    _silence()
    control = socket.socket(fileno=args.socket)
    control.send(b'{"ready": true}')
    pipes = _fork_on_demand(control, args.parent)
    if pipes is not None:  # this is a forked worker
        control.close()
        _work(*pipes, args.memory, args.hard_limit)


def _silence() -> None:
    """Discard stdout and stderr, which nobody reads: a warning per task must not fill a disk."""
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)


def _fork_on_demand(control: socket.socket, parent: int) -> tuple[int, int] | None:
    """Fork and kill on request.

    Args:
        control: Socket to the pool.
        parent: Process id of the pool.

    Returns:
        In a fork, its pipes for tasks and results; None in the starter, when the pool is gone.
    """
    children: set[int] = set()
    while os.getppid() == parent:
        readable, _, _ = select.select([control], [], [], _POLL)
        for pid in list(children):
            if os.waitpid(pid, os.WNOHANG)[0]:
                children.discard(pid)
        if not readable:
            continue
        message, pipes, _, _ = socket.recv_fds(control, 4096, 2)
        if not message:
            break
        request = json.loads(message)
        if request["do"] == "fork":
            pid = os.fork()
            if pid == 0:
                return pipes[0], pipes[1]
            children.add(pid)
            for pipe in pipes:
                os.close(pipe)
            control.send(json.dumps({"pid": pid}).encode())
        elif request["do"] == "kill":
            _kill(children & {request["pid"]}, children)
            control.send(b"{}")
    _kill(set(children), children)
    return None


def _kill(pids: set[int], children: set[int]) -> None:
    """Kill and reap processes, and drop them from the children."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        children.discard(pid)


def _watch_parent(parent: int) -> None:
    """End this process when its parent is gone.

    The parent's id is polled, because PR_SET_PDEATHSIG would fire when the *thread* that started
    the worker ends, and no end of file comes while a fork of the pool's process holds the pipe.
    """
    while os.getppid() == parent:
        time.sleep(_POLL)
    os._exit(0)


def _work(tasks: int, results: int, memory: int, hard_limit: float) -> None:
    """Decide tasks until the pipe ends, or until memory runs out, when the worker is replaced.

    Args:
        tasks: File descriptor to read tasks from.
        results: File descriptor to write results to.
        memory: Bytes of address space; 0 for no limit.
        hard_limit: Seconds for one task, after which the process ends itself.
    """
    threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    if memory:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    with open(results, "w", buffering=1, encoding="ascii") as out:
        out.write(json.dumps({"ready": time.process_time()}) + "\n")
        try:
            for line in open(tasks, encoding="ascii"):
                for task in json.loads(line):
                    # SIGALRM's default action ends the process even inside one long C call.
                    signal.setitimer(signal.ITIMER_REAL, hard_limit)
                    result = _run(task)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    out.write(json.dumps({**result, "cpu": time.process_time()}) + "\n")
        except MemoryError:
            out.write('{"memory": true, "cpu": 0}\n')


def _run(task: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a task: a verdict on an item, or the state of a gold."""
    from custom_components.verifier.decide import check_gold, decide

    if "check_gold" in task:
        return {"gold": check_gold(task["check_gold"], task["choices"])}
    try:
        verdict = decide(Item.of(task["item"]))
    except MemoryError:
        raise
    except Exception:
        verdict = Verdict("undecided", "internal_error")
    return {"verdict": [verdict.verdict, verdict.reason, verdict.prediction]}


if __name__ == "__main__":
    main()

"""Run `verify` in worker processes that can be killed: `VerifierPool`.

A computer-algebra call cannot be interrupted from inside: signal alarms do nothing off the main
thread, and a thread cannot be killed. Here every item runs in a worker process that is killed and
replaced when it exceeds its time limit or memory cap. One thread of the caller's process drives
each worker; results come back in the order of the items.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from custom_components.verifier.limits import MAX_RESPONSE
from custom_components.verifier.pool.process import (
    Starter,
    WorkerLost,
    WorkerProcess,
    WorkerTimeout,
)
from custom_components.verifier.types import Item, Verdict

_CHUNK = 8  # maximum of tasks handed to a worker at once, to hide the pipe's latency
_GOLD_CACHE = 4096  # golds whose own state is remembered
_RECYCLE = 50_000  # tasks after which a worker is replaced


class _Task:
    """Hold an item and the future of its verdict.

    Attributes:
        item: Pair to verify.
        future: Future that gets the verdict.
        attempts: Number of workers that were lost under the item.
        starved: Whether the item ran out of memory in a worker that had done other items.
    """

    __slots__ = ("attempts", "future", "item", "starved")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.future: Future[Verdict] = Future()
        self.attempts = 0
        self.starved = False


class _Engine:
    """Keep the threads, the queue and the workers of one pool in one process."""

    def __init__(self, workers: int, time_limit: float, memory_limit: int, start_limit: float):
        self.pid = os.getpid()
        self.time_limit = time_limit
        self.memory_limit = memory_limit
        self.start_limit = start_limit
        self.workers = workers
        self.queue: deque[_Task] = deque()
        self.changed = threading.Condition()
        self.closed = False
        self.gold_states: dict[tuple[str, str | None], str] = {}
        self.starting = threading.Lock()
        self.starter: Starter | None = None
        self.driving = workers
        self.processes: list[WorkerProcess | None] = [None] * workers
        self.threads = [
            threading.Thread(target=self._drive, args=(slot,), daemon=True, name=f"verifier-{slot}")
            for slot in range(workers)
        ]
        for thread in self.threads:
            thread.start()

    def submit(self, item: Item) -> Future[Verdict]:
        """Queue an item and return the future of its verdict."""
        task = _Task(item)
        with self.changed:
            if self.closed:
                raise RuntimeError("the VerifierPool is closed")
            self.queue.append(task)
            self.changed.notify()
        return task.future

    def close(self, join: bool = True) -> None:
        """Cancel what is waiting, kill the workers and join the threads."""
        with self.changed:
            self.closed = True
            waiting = self.queue
            self.queue = deque()
            self.changed.notify_all()
            for process in self.processes:
                if process is not None:
                    process.interrupt()
        for task in waiting:
            task.future.cancel()
        if join:
            for thread in self.threads:
                thread.join()

    def _take(self) -> list[_Task]:
        """Wait for tasks and return the next ones for one worker; none when the pool closes."""
        with self.changed:
            while not self.queue and not self.closed:
                self.changed.wait()
            if self.closed:
                return []
            fair = len(self.queue) // (2 * self.workers)
            return [self.queue.popleft() for _ in range(max(1, min(_CHUNK, fair)))]

    def _give_back(self, tasks: Iterable[_Task]) -> None:
        """Put tasks back at the head of the queue; cancel them when the pool is closed."""
        with self.changed:
            if not self.closed:
                self.queue.extendleft(reversed(list(tasks)))
                self.changed.notify_all()
                return
        for task in tasks:
            task.future.cancel()

    def _process(self, slot: int) -> WorkerProcess:
        """Return the slot's worker, started if need be.

        Raises:
            RuntimeError: when a worker cannot be started.
        """
        process = self.processes[slot]
        if process is None:
            starter = self._live_starter()
            try:
                process = WorkerProcess(starter, self.time_limit)
            except WorkerLost:  # the starter was killed, so a new one is needed
                self._end_starter(starter)
                process = WorkerProcess(self._live_starter(), self.time_limit)
            with self.changed:
                self.processes[slot] = process
                if self.closed:  # the pool was closed while the worker started
                    process.interrupt()
        return process

    def _live_starter(self) -> Starter:
        """Return the starter, started if need be."""
        with self.starting:
            if self.starter is None:
                self.starter = Starter(self.time_limit, self.memory_limit, self.start_limit)
            return self.starter

    def _end_starter(self, starter: Starter | None) -> None:
        """End a starter, once; leave a newer one alone."""
        with self.starting:
            if starter is None or starter is not self.starter:
                return
            self.starter = None
        starter.close()

    def _discard(self, slot: int) -> None:
        """Kill the slot's worker, if there is one."""
        with self.changed:
            process = self.processes[slot]
            self.processes[slot] = None
        if process is not None:
            process.kill()

    def _drive(self, slot: int) -> None:
        """Run tasks in one worker until the pool closes; the body of one thread."""
        while tasks := self._take():
            running = deque(task for task in tasks if not task.future.cancelled())
            try:
                self._run(slot, running)
            except Exception as error:  # a worker cannot start, or there is a bug: tell all callers
                for task in running:
                    _settle(task, error)
        self._discard(slot)
        with self.changed:
            self.driving -= 1
            last = self.driving == 0
        if last:
            self._end_starter(self.starter)

    def _run(self, slot: int, running: deque[_Task]) -> None:
        """Run tasks in one worker; return those left when the worker dies to the queue."""
        if not running:
            return
        try:
            process = self._process(slot)
            process.send([{"item": task.item.as_dict()} for task in running])
            while running:
                result = process.receive()
                if "memory" in result:
                    self._exhausted(slot, running, "memory")
                    return
                _settle(running.popleft(), Verdict(*result["verdict"]))
            if process.done > _RECYCLE:  # sympy's caches have grown
                self._discard(slot)
        except WorkerTimeout:
            self._exhausted(slot, running, "timeout")
        except WorkerLost:
            self._discard(slot)
            if not self.closed:
                running[0].attempts += 1
                if running[0].attempts > 1:
                    _settle(running.popleft(), Verdict("undecided", "worker_lost"))
            self._give_back(running)

    def _exhausted(self, slot: int, running: deque[_Task], limit: str) -> None:
        """Settle the first task, which hit a limit; return the others to the queue.

        It is the response's fault unless the gold alone hits a limit too.
        """
        process = self.processes[slot]
        used = process is not None and process.done > 0
        self._discard(slot)
        task = running.popleft()
        self._give_back(running)
        running.clear()
        running.append(task)  # an error below reaches its future
        if limit == "memory" and used and not task.starved:
            task.starved = True  # earlier tasks may have filled the memory: retry in a new worker
            self._run(slot, running)
            return
        state = self._gold_state(slot, task.item)
        verdict = Verdict("incorrect", limit) if state == "ok" else Verdict("undecided", state)
        _settle(running.popleft(), verdict)

    def _gold_state(self, slot: int, item: Item) -> str:
        """Return "ok" or the reason why the gold cannot be decided on its own."""
        key = (item.gold, item.choices)
        if key in self.gold_states:
            return self.gold_states[key]
        try:
            process = self._process(slot)
            process.send([{"check_gold": item.gold, "choices": item.choices}])
            result = process.receive()
            state = "gold_memory" if "memory" in result else result["gold"]
        except WorkerTimeout:
            state = "gold_timeout"
        except WorkerLost:
            state = "worker_lost"
        if state in ("gold_memory", "gold_timeout", "worker_lost"):
            self._discard(slot)
        if state != "worker_lost":
            if len(self.gold_states) >= _GOLD_CACHE:
                self.gold_states.clear()
            self.gold_states[key] = state
        return state


def _settle(task: _Task, outcome: Verdict | Exception) -> None:
    """Give a task its result, unless its caller has cancelled it."""
    if not task.future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        task.future.set_exception(outcome)
    else:
        task.future.set_result(outcome)


class VerifierPool:
    """Verify items in worker processes that are killed and replaced when an item hits a limit.

    ```
    with VerifierPool(workers=2, time_limit=5.0) as pool:
        for verdict in pool.imap({"gold": g, "response": r} for g, r in rows):
            ...
    ```

    An item is an `Item` or a mapping with the arguments of `verify`. Workers start with the first
    item and import neither torch nor the caller's `__main__`. Any thread may call any method, also
    at the same time. A fork or an unpickled copy starts workers of its own.

    Args:
        workers: Number of processes.
        time_limit: Seconds for one item (see `WorkerProcess.receive`).
        memory_limit: Bytes of address space of a worker; 0 for no limit.
        start_limit: Seconds for a worker to start.
        rounding: Value of the option `rounding` of `verify` for all items.

    Raises:
        ValueError: when a limit is out of range.
    """

    def __init__(
        self,
        workers: int = 2,
        time_limit: float = 5.0,
        memory_limit: int = 1 << 30,
        start_limit: float = 120.0,
        rounding: bool = False,
    ) -> None:
        if workers < 1 or time_limit <= 0 or memory_limit < 0:
            raise ValueError("workers >= 1, time_limit > 0 and memory_limit >= 0 are required")
        self.workers = workers
        self.time_limit = time_limit
        self.memory_limit = memory_limit
        self.start_limit = start_limit
        self.rounding = rounding
        self._engine: _Engine | None = None
        self._closed = False
        self._lock = threading.Lock()
        _POOLS.add(self)

    def verify(self, gold: str, response: str, **options: Any) -> Verdict:
        """Return the verdict of `verify(gold, response, **options)` within the limits."""
        return self.submit(Item(gold, response, **options)).result()

    def verify_all(self, items: Iterable[Item | Mapping[str, Any]]) -> list[Verdict]:
        """Return the verdicts of all items, in order."""
        return list(self.imap(items))

    def imap(
        self, items: Iterable[Item | Mapping[str, Any]], look_ahead: int | None = None
    ) -> Iterator[Verdict]:
        """Yield the verdicts in the items' order, reading at most `look_ahead` items ahead."""
        bound = look_ahead or 4 * _CHUNK * self.workers
        waiting: deque[Future[Verdict]] = deque()
        try:
            for item in items:
                waiting.append(self.submit(item))
                while waiting and (len(waiting) >= bound or waiting[0].done()):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # after an error, or when the caller stopped early, nobody waits for the rest
            for future in waiting:
                future.cancel()

    def submit(self, item: Item | Mapping[str, Any]) -> Future[Verdict]:
        """Queue one item and return the future of its verdict.

        Raises:
            TypeError: when `item` is neither an Item nor a mapping with its fields.
            RuntimeError: when the pool is closed.
        """
        item = Item.of(item)
        if self.rounding and not item.rounding:
            item = replace(item, rounding=True)
        if len(item.response) > MAX_RESPONSE or len(item.gold) > MAX_RESPONSE:
            item = replace(
                item, response=item.response[: MAX_RESPONSE + 1], gold=item.gold[: MAX_RESPONSE + 1]
            )
        return self._running().submit(item)

    def close(self) -> None:
        """End the workers and cancel the items that are not decided. May be called twice."""
        with self._lock:
            engine = self._engine
            self._engine = None
            self._closed = True
        if engine is not None and engine.pid == os.getpid():
            engine.close()

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is not None and engine.pid == os.getpid():
            engine.close(join=False)  # __del__ may run in any thread, so it must not wait for one

    def __reduce__(self) -> tuple[Any, ...]:
        limits = (self.workers, self.time_limit, self.memory_limit, self.start_limit)
        return (VerifierPool, (*limits, self.rounding))

    def _running(self) -> _Engine:
        """Return the engine, started if need be; raise RuntimeError when the pool is closed."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the VerifierPool is closed")
            if self._engine is None:
                self._engine = _Engine(
                    self.workers, self.time_limit, self.memory_limit, self.start_limit
                )
            return self._engine

    def _after_fork(self) -> None:
        """Forget the threads and the workers in a forked child: they are the parent's."""
        self._lock = threading.Lock()
        engine = self._engine
        self._engine = None
        if engine is not None:
            for process in engine.processes:
                if process is not None:
                    process.abandon()
            if engine.starter is not None:
                engine.starter.abandon()


_POOLS: weakref.WeakSet[VerifierPool] = weakref.WeakSet()


def _reset_pools_after_fork() -> None:
    for pool in list(_POOLS):
        pool._after_fork()


def _close_pools_at_exit() -> None:
    for pool in list(_POOLS):
        pool.close()


os.register_at_fork(after_in_child=_reset_pools_after_fork)
atexit.register(_close_pools_at_exit)

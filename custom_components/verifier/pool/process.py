"""The pool's end of its worker processes: start, send, receive with a deadline, kill."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[3]
WORKER = ("-m", "custom_components.verifier.pool.worker")  # the interpreter's arguments
_SLICE = 0.5  # seconds of one wait for a worker
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class WorkerLost(Exception):
    """The worker ended, or closed its pipe, without answering."""


class WorkerTimeout(Exception):
    """The worker did not answer in time."""


class Starter:
    """The process that loads the computer algebra once and forks the workers (worker.py).

    All methods may be called from any thread. It never imports the caller's `__main__`.
    """

    def __init__(self, time_limit: float, memory_limit: int, start_limit: float) -> None:
        """Starts it and waits until it has loaded; RuntimeError with its words if it cannot."""
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = dict(os.environ)
        paths = [str(_ROOT), *filter(None, [env.get("PYTHONPATH")])]
        # A fixed hash seed: sympy's term order, and with it every verdict, is the same in all runs.
        env.update(PYTHONPATH=os.pathsep.join(paths), PYTHONHASHSEED="0", OMP_NUM_THREADS="1")
        command = [sys.executable, "-P", *WORKER]
        command += ["--parent", str(os.getpid()), "--socket", str(theirs.fileno())]
        command += ["--memory", str(memory_limit), "--hard-limit", str(5 * time_limit + 5)]
        with tempfile.TemporaryFile() as errors, theirs:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                env=env,
                pass_fds=[theirs.fileno()],
            )
            theirs.close()
            try:
                self._receive(start_limit)
            except OSError as error:
                self.close()
                errors.seek(0)
                words = errors.read()[-2000:].decode(errors="replace").strip()
                raise RuntimeError(f"the verifier's worker did not start: {words}") from error
        self.start_limit = start_limit

    def fork(self, tasks: int, results: int) -> int:
        """The process id of a new worker with these pipes; OSError when the starter is gone."""
        with self._lock:
            socket.send_fds(self._control, [b'{"do": "fork"}'], [tasks, results])
            return self._receive(self.start_limit)["pid"]

    def kill(self, pid: int) -> None:
        """Kills a worker and reaps it; a worker whose starter is gone ends by itself."""
        with self._lock:
            try:
                self._control.send(json.dumps({"do": "kill", "pid": pid}).encode())
                self._receive(self.start_limit)
            except OSError:
                self._process.kill()

    def close(self) -> None:
        """Ends the starter and all its workers."""
        self._control.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def abandon(self) -> None:
        """In a forked child: the starter is the parent's."""
        self._control.close()
        self._process.returncode = 0  # not our child: nothing to wait for

    def _receive(self, seconds: float) -> dict[str, Any]:
        self._control.settimeout(seconds)
        message = self._control.recv(4096)
        if not message:
            raise ConnectionResetError("the starter is gone")
        return json.loads(message)


class WorkerProcess:
    """One worker, spoken to over pipes by one thread at a time."""

    def __init__(self, starter: Starter, time_limit: float) -> None:
        """Forks a worker; WorkerLost when its starter is gone."""
        self.time_limit = time_limit
        self.done = 0  # results received
        self._starter = starter
        self._buffer = bytearray()
        tasks, self._tasks = os.pipe()
        self._results, results = os.pipe()
        try:
            self.pid = starter.fork(tasks, results)
        except OSError as error:
            self._close_pipes()
            raise WorkerLost(str(error)) from error
        finally:
            os.close(tasks)
            os.close(results)
        self._poll = select.poll()
        self._poll.register(self._results, select.POLLIN)
        try:
            self._cpu = self._receive_line(starter.start_limit)["ready"]
        except (WorkerLost, WorkerTimeout) as error:
            self.kill()
            raise WorkerLost("the worker did not start") from error

    def send(self, tasks: list[dict[str, Any]]) -> None:
        """Hands over tasks; `receive` then returns their results in order. Raises WorkerLost."""
        view = memoryview((json.dumps(tasks) + "\n").encode("ascii"))
        try:
            while view:
                view = view[os.write(self._tasks, view) :]
        except OSError as error:
            raise WorkerLost(str(error)) from error

    def receive(self) -> dict[str, Any]:
        """The next result. Raises WorkerTimeout past the time limit, WorkerLost if it ended.

        The limit is wall time, extended while the machine is too busy to have given the worker
        half of it as CPU time: a loaded machine must not turn right answers into wrong ones.
        Never beyond four times the limit.
        """
        waited, wait = 0.0, self.time_limit
        while True:
            try:
                result = self._receive_line(wait)
                break
            except WorkerTimeout:
                used = _cpu_seconds(self.pid)
                if used is None:  # gone, its pipe held open by a fork of this process
                    raise WorkerLost("the worker is gone") from None
                waited += wait
                missing = self.time_limit - (used - self._cpu)
                wait = min(missing, 4 * self.time_limit - waited)
                if missing < 0.5 * self.time_limit or wait <= 0:
                    raise
        self._cpu = result["cpu"]
        self.done += 1
        return result

    def interrupt(self) -> None:
        """Ends the process from another thread; the driving thread sees WorkerLost."""
        self._starter.kill(self.pid)

    def kill(self) -> None:
        """Ends the process; no error when it is already gone."""
        self._starter.kill(self.pid)
        self._close_pipes()

    def abandon(self) -> None:
        """In a forked child: the worker is the parent's."""
        self._close_pipes()

    def _close_pipes(self) -> None:
        os.close(self._tasks)
        os.close(self._results)

    def _receive_line(self, seconds: float) -> dict[str, Any]:
        """The next line. Time in which this process did not run itself does not count."""
        while True:
            end = self._buffer.find(b"\n")
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                return json.loads(line)
            if seconds <= 0:
                raise WorkerTimeout
            slice_ = min(seconds, _SLICE)
            start = time.monotonic()
            ready = self._poll.poll(1000 * slice_)
            seconds -= min(time.monotonic() - start, 2 * slice_)  # more: we were stopped
            if not ready:
                continue
            data = os.read(self._results, 1 << 16)
            if not data:
                raise WorkerLost("the worker closed its pipe")
            self._buffer += data


def _cpu_seconds(pid: int) -> float | None:
    """CPU time used by a process so far (proc(5)); None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            stat = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(stat[11]) + int(stat[12])) / _CLOCK_TICKS

"""Start worker processes, send them tasks, receive results before a deadline, and kill them."""

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
    """Signal that a worker ended, or closed its pipe, without answering."""


class WorkerTimeout(Exception):
    """Signal that a worker did not answer in time."""


class Starter:
    """Keep the process that loads the computer algebra once and forks the workers (worker.py).

    All methods may be called from any thread. The process never imports the caller's `__main__`.
    """

    def __init__(self, time_limit: float, memory_limit: int, start_limit: float) -> None:
        """Start the process and wait until it has loaded.

        Args:
            time_limit: Seconds for one item.
            memory_limit: Bytes of address space of a worker.
            start_limit: Seconds for the process, and for a worker, to start.

        Raises:
            RuntimeError: when the process does not start; the message has its output.
        """
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = dict(os.environ)
        paths = [str(_ROOT), *filter(None, [env.get("PYTHONPATH")])]
        # A fixed hash seed keeps sympy's term order, and so every verdict, the same in all runs.
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
                output = errors.read()[-2000:].decode(errors="replace").strip()
                raise RuntimeError(f"the verifier's worker did not start: {output}") from error
        self.start_limit = start_limit

    def fork(self, tasks: int, results: int) -> int:
        """Fork a worker and return its process id.

        Args:
            tasks: File descriptor that the worker reads tasks from.
            results: File descriptor that the worker writes results to.

        Raises:
            OSError: when the starter is gone.
        """
        with self._lock:
            socket.send_fds(self._control, [b'{"do": "fork"}'], [tasks, results])
            return self._receive(self.start_limit)["pid"]

    def kill(self, pid: int) -> None:
        """Kill a worker and reap it; a worker whose starter is gone ends by itself."""
        with self._lock:
            try:
                self._control.send(json.dumps({"do": "kill", "pid": pid}).encode())
                self._receive(self.start_limit)
            except OSError:
                self._process.kill()

    def close(self) -> None:
        """End the starter and all its workers."""
        self._control.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def abandon(self) -> None:
        """Forget the starter in a forked child: it is the parent's."""
        self._control.close()
        self._process.returncode = 0  # it is not this process's child, so there is nothing to reap

    def _receive(self, seconds: float) -> dict[str, Any]:
        self._control.settimeout(seconds)
        message = self._control.recv(4096)
        if not message:
            raise ConnectionResetError("the starter is gone")
        return json.loads(message)


class WorkerProcess:
    """Talk to one worker over pipes, from one thread at a time."""

    def __init__(self, starter: Starter, time_limit: float) -> None:
        """Fork a worker.

        Args:
            starter: Process that forks it.
            time_limit: Seconds for one item.

        Raises:
            WorkerLost: when the starter is gone, or the worker does not start.
        """
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
        """Hand over tasks, whose results `receive` then returns in order.

        Raises:
            WorkerLost: when the worker is gone.
        """
        view = memoryview((json.dumps(tasks) + "\n").encode("ascii"))
        try:
            while view:
                view = view[os.write(self._tasks, view) :]
        except OSError as error:
            raise WorkerLost(str(error)) from error

    def receive(self) -> dict[str, Any]:
        """Return the next result.

        The limit is wall time, extended while the machine is too busy to have given the worker
        half of it as CPU time, to four times the limit at most: a loaded machine must not turn
        right answers into wrong ones.

        Raises:
            WorkerTimeout: when the time limit has passed.
            WorkerLost: when the worker ended.
        """
        waited, wait = 0.0, self.time_limit
        while True:
            try:
                result = self._receive_line(wait)
                break
            except WorkerTimeout:
                used = _cpu_seconds(self.pid)
                if used is None:  # it is gone, and a fork of this process holds its pipe open
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
        """End the process from another thread; the driving thread gets WorkerLost."""
        self._starter.kill(self.pid)

    def kill(self) -> None:
        """End the process; no error when it is already gone."""
        self._starter.kill(self.pid)
        self._close_pipes()

    def abandon(self) -> None:
        """Forget the worker in a forked child: it is the parent's."""
        self._close_pipes()

    def _close_pipes(self) -> None:
        os.close(self._tasks)
        os.close(self._results)

    def _receive_line(self, seconds: float) -> dict[str, Any]:
        """Return the next line. Time in which this process itself was stopped does not count."""
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
            # A longer wait means that this process was stopped.
            seconds -= min(time.monotonic() - start, 2 * slice_)
            if not ready:
                continue
            data = os.read(self._results, 1 << 16)
            if not data:
                raise WorkerLost("the worker closed its pipe")
            self._buffer += data


def _cpu_seconds(pid: int) -> float | None:
    """Return the CPU time that a process has used (proc(5)); None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            stat = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(stat[11]) + int(stat[12])) / _CLOCK_TICKS

"""The parent's end of one worker process: start, send, receive with a deadline, kill."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class WorkerLost(Exception):
    """The worker ended, or closed its pipe, without answering."""


class WorkerTimeout(Exception):
    """The worker did not answer in time."""


def _cpu_seconds(pid: int) -> float:
    """CPU time used by a process so far (proc(5)); 0.0 when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            stat = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(stat[11]) + int(stat[12])) / _CLOCK_TICKS


class WorkerProcess:
    """One `custom_components.verifier.worker`, spoken to over pipes by one thread at a time."""

    def __init__(self, time_limit: float, memory_limit: int, start_limit: float) -> None:
        """Starts the process and waits until it is ready; RuntimeError if it cannot start."""
        self.time_limit = time_limit
        env = dict(os.environ)
        paths = [str(_ROOT), *filter(None, [env.get("PYTHONPATH")])]
        # A fixed hash seed: sympy's term order, and with it every verdict, is the same in all runs.
        env.update(PYTHONPATH=os.pathsep.join(paths), PYTHONHASHSEED="0", OMP_NUM_THREADS="1")
        safe_path = ["-P"] if sys.version_info >= (3, 11) else []
        command = [sys.executable, *safe_path, "-m", "custom_components.verifier.worker"]
        command += ["--parent", str(os.getpid()), "--memory", str(memory_limit)]
        command += ["--hard-limit", str(5 * time_limit + 5)]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=env,
            bufsize=0,
        )
        self._buffer = bytearray()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        try:
            self._cpu = self._receive_line(time.monotonic() + start_limit)["ready"]
        except (WorkerLost, WorkerTimeout) as error:
            self._errors.seek(0)
            detail = self._errors.read()[-2000:].decode(errors="replace").strip()
            self.kill()
            raise RuntimeError(f"the verifier's worker did not start: {detail}") from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, tasks: list[dict[str, Any]]) -> None:
        """Hands over tasks; `receive` then returns their results in order. Raises WorkerLost."""
        data = (json.dumps(tasks) + "\n").encode("ascii")
        try:
            view = memoryview(data)
            while view:
                view = view[self._process.stdin.write(view) :]
        except OSError as error:
            raise WorkerLost(str(error)) from error

    def receive(self) -> dict[str, Any]:
        """The next result. Raises WorkerTimeout past the time limit, WorkerLost if it ended.

        The limit is wall time, extended while the machine is too busy to have given the worker
        that much CPU time: a loaded machine must not turn right answers into wrong ones. Never
        beyond four times the limit.
        """
        start = time.monotonic()
        wait = self.time_limit
        while True:
            try:
                result = self._receive_line(time.monotonic() + wait)
                break
            except WorkerTimeout:
                missing = self.time_limit - (_cpu_seconds(self.pid) - self._cpu)
                left = start + 4 * self.time_limit - time.monotonic()
                wait = min(missing, left)
                if missing < 0.2 * self.time_limit or wait <= 0:
                    raise
        self._cpu = result["cpu"]
        return result

    def kill(self) -> None:
        """Ends the process and reaps it; no error when it is already gone."""
        self._selector.close()
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._errors.close()

    def interrupt(self) -> None:
        """Ends the process from another thread; the driving thread sees WorkerLost and reaps."""
        self._process.kill()

    def abandon(self) -> None:
        """Closes this process's copies of the pipes: after a fork the worker is the parent's."""
        self._process.returncode = 0  # not our child: nothing to wait for
        self._selector.close()
        self._process.stdin.close()
        self._process.stdout.close()
        self._errors.close()

    def _receive_line(self, deadline: float) -> dict[str, Any]:
        while True:
            end = self._buffer.find(b"\n")
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                return json.loads(line)
            left = deadline - time.monotonic()
            if left <= 0 or not self._selector.select(left):
                if deadline - time.monotonic() <= 0:
                    raise WorkerTimeout
                continue
            try:
                data = os.read(self._process.stdout.fileno(), 1 << 16)
            except OSError as error:
                raise WorkerLost(str(error)) from error
            if not data:
                raise WorkerLost("the worker closed its pipe")
            self._buffer += data

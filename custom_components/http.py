"""POST JSON to an OpenAI-compatible endpoint, with patience. Standard library only."""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

_PASSING = (408, 409, 429)  # and every 5xx: worth another attempt
_LONGEST_WAIT = 600.0  # seconds, whatever Retry-After says


class EndpointError(RuntimeError):
    """A request that got no usable reply.

    Attributes:
        url: where it went.
        status: HTTP status of the last reply; None when there was none, or one without sense.
        words: what happened last, on one line.
    """

    def __init__(self, url: str, status: int | None, words: str) -> None:
        self.url, self.status, self.words = url, status, words
        super().__init__(f"{url}: HTTP {status}: {words}" if status else f"{url}: {words}")

    @property
    def refused(self) -> bool:
        """Whether asking again is of no use: a 4xx other than those that pass."""
        return self.status is not None and not _passes(self.status)


class Endpoint:
    """One address that takes JSON and replies in JSON. May be used from several threads.

    Args:
        url: full address.
        api_key_env: environment variable with the key; none is sent when it is not set.
        timeout: seconds for one attempt.
        attempts: tries of a request that fails in passing (408, 409, 429, 5xx, a refused or
            broken connection, a reply without sense), with exponentially growing waits.
        requests_per_minute: at most so many attempts, evenly spaced; no limit when None.

    Raises:
        ValueError: when an argument makes no sense.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        attempts: int = 4,
        requests_per_minute: float | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url {url!r} does not start with http:// or https://")
        if attempts < 1 or timeout <= 0 or (requests_per_minute or 1) <= 0:
            raise ValueError("attempts, timeout and requests_per_minute must be positive")
        self.url, self.timeout, self.attempts = url, timeout, attempts
        self._spacing = 60 / requests_per_minute if requests_per_minute else 0.0
        self._next_turn = 0.0
        self._lock = threading.Lock()
        self._headers = {"Content-Type": "application/json"}
        if key := os.environ.get(api_key_env, "").strip():
            self._headers["Authorization"] = f"Bearer {key}"

    def post(
        self, body: Any, read: Callable[[Any], Any], before: Callable[[], None] = lambda: None
    ) -> Any:
        """Send until there is a reply that `read` can use.

        Args:
            body: what to send.
            read: makes the result out of the reply's JSON; its ValueError means that the reply
                makes no sense, and the request is sent again.
            before: called before each attempt; what it raises ends the request.

        Returns:
            what `read` returns.

        Raises:
            EndpointError: when the endpoint refuses the request, or after the last attempt.
        """
        data = json.dumps(body).encode()
        asked = 0.0  # seconds to wait, by the reply before
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(max(asked, _back_off(attempt)))
            self._wait_turn()
            before()
            status, asked = None, 0.0
            try:
                return read(self._send(data))
            except urllib.error.HTTPError as error:
                with error:
                    words = _words_of(error)
                status, asked = error.code, _retry_after(error.headers.get("Retry-After"))
                if not _passes(status):
                    raise EndpointError(self.url, status, words) from error
            except (OSError, http.client.HTTPException) as error:
                words = f"no reply ({getattr(error, 'reason', None) or error!r})"
            except ValueError as error:
                words = f"a reply without sense ({error})"
        tried = f" ({self.attempts} attempts)" if self.attempts > 1 else ""
        raise EndpointError(self.url, status, f"{words}{tried}")

    def _send(self, data: bytes) -> Any:
        request = urllib.request.Request(self.url, data, self._headers)
        with urllib.request.urlopen(request, timeout=self.timeout) as reply:
            return json.loads(reply.read())

    def _wait_turn(self) -> None:
        if not self._spacing:
            return
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next_turn)
            self._next_turn = turn + self._spacing
        time.sleep(turn - now)


def _back_off(attempt: int) -> float:
    """Seconds before the nth further attempt, with jitter: 1, 2, 4, ... at most."""
    return random.uniform(0.5, 1.0) * min(2.0 ** (attempt - 1), 60.0)


def _passes(status: int) -> bool:
    return status in _PASSING or status >= 500


def _words_of(error: urllib.error.HTTPError) -> str:
    try:
        text = error.read(500).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        text = ""
    return " ".join(text.split()) or str(error.reason)


def _retry_after(header: str | None) -> float:
    """Seconds to wait by a Retry-After header: a number, or a date."""
    text = (header or "").strip()
    if text.isdecimal():
        return min(float(text), _LONGEST_WAIT)
    try:
        until = email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        return 0.0
    return min(max(until - time.time(), 0.0), _LONGEST_WAIT)

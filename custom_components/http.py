"""POST JSON to an OpenAI-compatible endpoint, patiently. Uses the standard library only."""

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
from dataclasses import dataclass
from typing import Any, TypeVar

_PASSING = (408, 409, 429)  # these and every 5xx are worth another attempt
_LONGEST_WAIT = 600.0  # seconds, whatever Retry-After says

Result = TypeVar("Result")
Message = dict[str, str]
"""A turn of a conversation: role and content."""


class EndpointError(RuntimeError):
    """Signal a request that got no usable reply.

    Attributes:
        url: address that the request went to.
        status: HTTP status of the last reply; None if there was none, or it was not usable.
        words: what happened last, on one line.
        unusable: whether the endpoint replied last, with something that cannot be used.
    """

    def __init__(self, url: str, status: int | None, words: str, unusable: bool = False) -> None:
        self.url = url
        self.status = status
        self.words = words
        self.unusable = unusable
        super().__init__(f"{url}: HTTP {status}: {words}" if status else f"{url}: {words}")

    @property
    def refused(self) -> bool:
        """Tell whether another attempt is useless: a 4xx status other than the passing ones."""
        return self.status is not None and not _passes(self.status)


class Endpoint:
    """Hold one address that takes JSON and replies in JSON. Several threads may share it.

    Args:
        url: full address.
        api_key_env: environment variable that holds the key; no key is sent if it is not set.
        timeout: seconds for one attempt.
        attempts: how often a request is sent if it fails for a passing reason (408, 409, 429, 5xx,
            a refused or broken connection, an unusable reply), with exponentially growing waits.
        requests_per_minute: most attempts in a minute, evenly spaced; None for no limit.

    Raises:
        ValueError: if an argument is out of range.
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
        self.url = url
        self.timeout = timeout
        self.attempts = attempts
        self._spacing = 60 / requests_per_minute if requests_per_minute else 0.0
        self._next_turn = 0.0
        self._lock = threading.Lock()
        self._headers = {"Content-Type": "application/json"}
        if key := os.environ.get(api_key_env, "").strip():
            self._headers["Authorization"] = f"Bearer {key}"

    def post(
        self, body: Any, read: Callable[[Any], Result], before: Callable[[], None] = lambda: None
    ) -> Result:
        """Send a request until `read` can use the reply.

        Args:
            body: JSON value to send.
            read: function that makes the result from the reply's JSON. Its ValueError marks an
                unusable reply, after which the request is sent again.
            before: function called before each attempt; an exception from it ends the request.

        Returns:
            The value that `read` returns.

        Raises:
            EndpointError: if the endpoint refuses the request, or the last attempt has failed.
        """
        data = json.dumps(body).encode()
        status: int | None = None
        words = ""
        unusable = False
        requested_wait = 0.0  # seconds, by the Retry-After of the reply before
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(max(requested_wait, _back_off(attempt)))
            self._wait_turn()
            before()
            status = None
            unusable = False
            requested_wait = 0.0
            try:
                return read(self._send(data))
            except urllib.error.HTTPError as error:
                with error:
                    words = _words_of(error)
                status = error.code
                requested_wait = _retry_after(error.headers.get("Retry-After"))
                if not _passes(status):
                    raise EndpointError(self.url, status, words) from error
            except (OSError, http.client.HTTPException) as error:
                words = f"no reply ({getattr(error, 'reason', None) or error!r})"
            except ValueError as error:
                words = f"an unusable reply ({error})"
                unusable = True
        count = f" ({self.attempts} attempts)" if self.attempts > 1 else ""
        raise EndpointError(self.url, status, f"{words}{count}", unusable)

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


@dataclass(frozen=True)
class ChatReply:
    """Hold the first choice of a chat completion.

    Attributes:
        content: text of the message; empty if it has none.
        reasoning: reasoning that the endpoint keeps apart from the content; empty if it does not.
        finish_reason: why the message ended (stop, length, ...); None if the endpoint omits it.
        usage: prompt_tokens and completion_tokens; None if the endpoint does not report them.
    """

    content: str
    reasoning: str
    finish_reason: str | None
    usage: dict[str, int] | None

    @classmethod
    def read(cls, reply: Any) -> ChatReply:
        """Return the first choice in an endpoint's JSON.

        Raises:
            ValueError: if the JSON is not a chat completion.
        """
        try:
            choice = reply["choices"][0]
            message = choice["message"]
            usage = reply.get("usage")
            counts = ("prompt_tokens", "completion_tokens")
            parsed = cls(
                message.get("content") or "",
                message.get("reasoning_content") or message.get("reasoning") or "",
                choice.get("finish_reason"),
                {name: int(usage.get(name) or 0) for name in counts} if usage else None,
            )
        except (KeyError, IndexError, TypeError, AttributeError) as e:
            raise ValueError("no chat completion") from e
        if not isinstance(parsed.content, str) or not isinstance(parsed.reasoning, str):
            raise ValueError("no chat completion")
        return parsed


class ChatEndpoint:
    """Talk with one model through an endpoint's `/chat/completions`. Several threads may share it.

    Args:
        base_url: address up to and including `/v1`.
        model: the endpoint's name for the model.
        **options: keyword arguments of `Endpoint`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, base_url: str, model: str, **options: Any) -> None:
        self.endpoint = Endpoint(base_url.rstrip("/") + "/chat/completions", **options)
        self.model = model

    @property
    def url(self) -> str:
        """Return the full address that requests go to."""
        return self.endpoint.url

    def body(self, messages: list[Message], sampling: dict[str, Any]) -> dict[str, Any]:
        """Return the JSON of a request; keys of `sampling` win over the others."""
        return {"model": self.model, "messages": messages} | sampling

    def ask(
        self,
        messages: list[Message],
        sampling: dict[str, Any],
        read: Callable[[ChatReply], Result],
        before: Callable[[], None] = lambda: None,
    ) -> Result:
        """Send a conversation until `read` can use the reply.

        Args:
            messages: turns of the conversation.
            sampling: further keys of the request: temperature, max_tokens, ...
            read, before: as for `Endpoint.post`.

        Returns:
            The value that `read` returns.

        Raises:
            EndpointError: if the endpoint refuses the request, or the last attempt has failed.
        """
        body = self.body(messages, sampling)
        return self.endpoint.post(body, lambda reply: read(ChatReply.read(reply)), before)


def _back_off(attempt: int) -> float:
    """Return the seconds to wait before a repeated attempt: at most 1, 2, 4, ..., with jitter."""
    return random.uniform(0.5, 1.0) * min(2.0 ** (attempt - 1), 60.0)


def _passes(status: int) -> bool:
    return status in _PASSING or status >= 500


def _words_of(error: urllib.error.HTTPError) -> str:
    try:
        text = error.read(500).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        text = ""
    return " ".join(text.split()) or error.reason


def _retry_after(header: str | None) -> float:
    """Return the seconds that a Retry-After header asks for, as a number or as a date."""
    text = (header or "").strip()
    if text.isdecimal():
        return min(float(text), _LONGEST_WAIT)
    try:
        until = email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        return 0.0
    return min(max(until - time.time(), 0.0), _LONGEST_WAIT)

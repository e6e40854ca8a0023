"""Ask a language model for a second opinion on the answers that the verifier rejects.

The paper re-checks answers that its rules call wrong with GPT-4o-mini. Here an opinion never
changes a verdict: it is returned as an `Opinion`, for a column of its own. The model sees the
problem, the gold answer and the extracted prediction, but never the whole response, which could
address the model.

    asker = SecondOpinion(url, "gpt-4o-mini", cache="judge", max_requests=500)
    opinions = asker.opinions([(problem, gold, verdict), ...])

Opinions are cached on disk by endpoint, model, prompt and sampling. At most `concurrency` requests
run at once, and one SecondOpinion sends at most `max_requests` (cached opinions are free).
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from custom_components.http import ChatEndpoint, ChatReply, EndpointError, Message
from custom_components.io import write_text
from custom_components.verifier.types import Verdict

DEFAULT_PROMPT = Path(__file__).with_name("second_opinion_prompt.txt")
# These rejections are a matter of opinion; the others (no answer, several, truncated) are facts.
DISPUTABLE = frozenset({"not_equal", "answer_unreadable", "gold_unreadable"})
_FIELD = re.compile(r"\{(problem|gold|prediction)\}")
_VERDICT = re.compile(r"verdict\s*:\s*\W*(same|different)\b", re.I)
_MAX_FIELD = 4_000  # characters of one field


class RefusedError(RuntimeError):
    """Signal an endpoint that refuses every request: a wrong address, key or model."""


class _BudgetSpent(Exception):
    """Signal that no further request may be sent."""


@dataclass(frozen=True)
class Opinion:
    """Hold the opinion on one answer.

    Attributes:
        opinion: `same` or `different` from the gold answer, or why there is neither: `unclear` (the
            reply cannot be read), `failed` (no reply after all attempts), `budget` (not sent),
            `not_asked` (nothing to dispute).
        reply: text of the model's reply.
        cached: whether the opinion comes from the cache.
    """

    opinion: Literal["same", "different", "unclear", "failed", "budget", "not_asked"]
    reply: str = ""
    cached: bool = False


class SecondOpinion:
    """Ask one model at one endpoint. Several threads may share it.

    Args:
        base_url: address up to and including `/v1`.
        model: the endpoint's name for the model.
        cache: folder of the cached opinions, shared by runs.
        max_requests: most requests to send, retries included.
        concurrency: requests at the same time.
        prompt: file with {problem}, {gold} and {prediction} in it.
        api_key_env: environment variable that holds the key; no key is sent if it is not set.
        timeout: seconds for one request.
        attempts: how often a request is sent if it fails for a passing reason.
        max_tokens: longest reply, tokens.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        cache: str | Path,
        max_requests: int,
        concurrency: int = 8,
        prompt: str | Path = DEFAULT_PROMPT,
        api_key_env: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        attempts: int = 4,
        max_tokens: int = 256,
    ) -> None:
        self.endpoint = ChatEndpoint(
            base_url, model, api_key_env=api_key_env, timeout=timeout, attempts=attempts
        )
        self.cache = Path(cache)
        self.prompt = Path(prompt).read_text(encoding="utf-8")
        missing = {"problem", "gold", "prediction"} - set(_FIELD.findall(self.prompt))
        if missing:
            raise ValueError(f"{prompt}: no {{{sorted(missing)[0]}}} in the prompt")
        self.max_requests = max_requests
        self.concurrency = concurrency
        self.sampling = {"temperature": 0, "max_tokens": max_tokens}
        self.sent = 0
        self._lock = threading.Lock()

    def opinions(self, rows: Iterable[tuple[str, str, Verdict]]) -> list[Opinion]:
        """Return one opinion for each (problem, gold, verdict), in order.

        Raises:
            RefusedError: if the endpoint refuses the requests.
        """
        with ThreadPoolExecutor(self.concurrency) as threads:
            futures = [threads.submit(self.opinion, *row) for row in rows]
            try:
                return [future.result() for future in futures]
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def opinion(self, problem: str, gold: str, verdict: Verdict) -> Opinion:
        """Return the opinion on one verdict; only a disputable one is sent.

        Raises:
            RefusedError: if the endpoint refuses the request.
        """
        if verdict.reason not in DISPUTABLE or not verdict.prediction:
            return Opinion("not_asked")
        fields = {"problem": problem, "gold": gold, "prediction": verdict.prediction}
        text = _FIELD.sub(lambda match: fields[match[1]][:_MAX_FIELD], self.prompt)
        messages = [{"role": "user", "content": text}]
        path = self._cache_path(messages)
        cached = _load(path)
        if cached is not None:
            return cached
        opinion = self._ask(messages)
        if opinion.opinion in ("same", "different", "unclear"):
            write_text(path, json.dumps({"opinion": opinion.opinion, "reply": opinion.reply}))
        return opinion

    def _cache_path(self, messages: list[Message]) -> Path:
        body = self.endpoint.body(messages, self.sampling)
        key = json.dumps([self.endpoint.url, body], sort_keys=True)
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        return self.cache / name[:2] / f"{name}.json"

    def _ask(self, messages: list[Message]) -> Opinion:
        """Send the request until there is a reply, or the attempts or the budget are used up."""
        try:
            return self.endpoint.ask(messages, self.sampling, _read_opinion, before=self._spend)
        except _BudgetSpent:
            return Opinion("budget")
        except EndpointError as error:
            if error.refused:
                raise RefusedError(str(error)) from error
            return Opinion("failed")

    def _spend(self) -> None:
        with self._lock:
            if self.sent >= self.max_requests:
                raise _BudgetSpent
            self.sent += 1


def _read_opinion(reply: ChatReply) -> Opinion:
    verdicts = _VERDICT.findall(reply.content)
    return Opinion(verdicts[-1].lower() if verdicts else "unclear", reply.content)


def _load(path: Path) -> Opinion | None:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return Opinion(stored["opinion"], stored["reply"], cached=True)
    except (OSError, ValueError, KeyError):
        return None

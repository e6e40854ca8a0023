"""A second opinion on what the rule rejected, from an OpenAI-compatible endpoint.

The paper re-checks answers that the rule calls wrong with GPT-4o-mini. Here an opinion never
changes a verdict: it is returned as an `Opinion`, for a column of its own. It sees the problem,
the gold and the extracted prediction, never the whole response, which could address the judge.

    judge = Judge("http://127.0.0.1:8000/v1", "gpt-4o-mini", cache="judge-cache", max_requests=500)
    opinions = judge.opinions([(problem, gold, verdict), ...])

    python -m custom_components.data.second_opinion --input verdicts.jsonl --output judged.jsonl \\
        --url http://127.0.0.1:8000/v1 --model gpt-4o-mini --cache judge-cache --max-requests 500

Opinions are cached on disk by endpoint, model, prompt and sampling; at most `concurrency` requests
run at once, and at most `max_requests` are ever sent by one Judge (cached ones are free).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from custom_components.http import Endpoint, EndpointError
from custom_components.verifier.types import Verdict

DEFAULT_PROMPT = Path(__file__).with_name("second_opinion_prompt.txt")
# Rejections that are a matter of opinion; the others (no answer, several, truncated) are facts.
DISPUTABLE = frozenset({"not_equal", "answer_unreadable", "gold_unreadable"})
_FIELD = re.compile(r"\{(problem|gold|prediction)\}")
_VERDICT = re.compile(r"verdict\s*:\s*\W*(same|different)\b", re.I)
_MAX_FIELD = 4_000  # characters of one field


class JudgeError(RuntimeError):
    """The endpoint refuses every request: a wrong address, key or model."""


class _BudgetSpent(Exception):
    """No further request may be sent."""


@dataclass(frozen=True)
class Opinion:
    """`same`, `different`, or why there is none: `unclear` (the reply cannot be read), `failed`
    (no reply after all attempts), `budget` (not sent), `not_asked` (nothing to dispute)."""

    opinion: Literal["same", "different", "unclear", "failed", "budget", "not_asked"]
    reply: str = ""
    cached: bool = False


class Judge:
    """Asks one model at one endpoint. May be used from several threads.

    Args:
        base_url: up to and including `/v1`.
        model: the endpoint's name for it.
        cache: folder of the cached opinions, shared by runs.
        max_requests: requests that this Judge may send, retries included.
        concurrency: requests at the same time.
        prompt: file with {problem}, {gold} and {prediction} in it.
        api_key_env: environment variable with the key; none is sent when it is not set.
        timeout: seconds for one request.
        attempts: tries of one request that fails in passing.
        max_tokens: longest reply.
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
        self.endpoint = Endpoint(
            base_url.rstrip("/") + "/chat/completions",
            api_key_env=api_key_env,
            timeout=timeout,
            attempts=attempts,
        )
        self.model = model
        self.cache = Path(cache)
        self.prompt = Path(prompt).read_text(encoding="utf-8")
        missing = {"problem", "gold", "prediction"} - set(_FIELD.findall(self.prompt))
        if missing:
            raise ValueError(f"{prompt}: no {{{sorted(missing)[0]}}} in the prompt")
        self.max_requests = max_requests
        self.concurrency = concurrency
        self.max_tokens = max_tokens
        self.sent = 0
        self._lock = threading.Lock()

    def opinions(self, rows: Iterable[tuple[str, str, Verdict]]) -> list[Opinion]:
        """One opinion for each (problem, gold, verdict), in order. Raises JudgeError."""
        with ThreadPoolExecutor(self.concurrency) as threads:
            futures = [threads.submit(self.opinion, *row) for row in rows]
            try:
                return [future.result() for future in futures]
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def opinion(self, problem: str, gold: str, verdict: Verdict) -> Opinion:
        """The opinion on one verdict; asks only about a disputable one. Raises JudgeError."""
        if verdict.reason not in DISPUTABLE or not verdict.prediction:
            return Opinion("not_asked")
        body = self._body({"problem": problem, "gold": gold, "prediction": verdict.prediction})
        path = self._cache_path(body)
        cached = _load(path)
        if cached is not None:
            return cached
        opinion = self._ask(body)
        if opinion.opinion in ("same", "different", "unclear"):
            _store(path, opinion)
        return opinion

    def _body(self, fields: dict[str, str]) -> dict[str, Any]:
        text = _FIELD.sub(lambda match: fields[match[1]][:_MAX_FIELD], self.prompt)
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }

    def _cache_path(self, body: dict[str, Any]) -> Path:
        key = json.dumps([self.endpoint.url, body], sort_keys=True)
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        return self.cache / name[:2] / f"{name}.json"

    def _ask(self, body: dict[str, Any]) -> Opinion:
        """Sends until there is a reply, the attempts or the budget are used up."""
        try:
            return self.endpoint.post(body, _read_reply, before=self._spend)
        except _BudgetSpent:
            return Opinion("budget")
        except EndpointError as error:
            if error.refused:
                raise JudgeError(str(error)) from error
            return Opinion("failed")

    def _spend(self) -> None:
        with self._lock:
            if self.sent >= self.max_requests:
                raise _BudgetSpent
            self.sent += 1


def _read_reply(reply: Any) -> Opinion:
    try:
        text = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("no chat completion") from error
    found = _VERDICT.findall(text or "")
    return Opinion(found[-1].lower() if found else "unclear", text or "")


def _load(path: Path) -> Opinion | None:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return Opinion(stored["opinion"], stored["reply"], cached=True)
    except (OSError, ValueError, KeyError):
        return None


def _store(path: Path, opinion: Opinion) -> None:
    """Atomically: another process may read or write the same opinion."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        json.dump({key: asdict(opinion)[key] for key in ("opinion", "reply")}, file)
    os.replace(temporary, path)


def main(argv: list[str] | None = None) -> int:
    """Adds the columns `judge` and `judge_reply` to rows of verdicts; their `verdict` stays."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--input", type=Path, required=True, help="rows of the verifier's output")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--url", required=True, help="endpoint, up to and including /v1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--cache", type=Path, required=True, help="folder")
    parser.add_argument("--max-requests", type=int, required=True, help="budget of this run")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--prompt", type=Path, default=DEFAULT_PROMPT)
    args = parser.parse_args(argv)
    judge = Judge(
        args.url,
        args.model,
        cache=args.cache,
        max_requests=args.max_requests,
        concurrency=args.concurrency,
        prompt=args.prompt,
    )
    with args.input.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    pairs = [
        (
            str(row.get("problem") or ""),
            str(row["gold"]),
            Verdict(row["verdict"], row["reason"], row["prediction"]),
        )
        for row in rows
    ]
    opinions = judge.opinions(pairs)
    temporary = args.output.with_name(args.output.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as out:
        for row, opinion in zip(rows, opinions, strict=True):
            row |= {"judge": opinion.opinion, "judge_reply": opinion.reply}
            out.write(json.dumps(row) + "\n")
    os.replace(temporary, args.output)
    counts = Counter(opinion.opinion for opinion in opinions)
    print(f"{len(rows)} rows, {judge.sent} requests: {dict(sorted(counts.items()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

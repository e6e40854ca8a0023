"""Domain and difficulty of a problem by a language model behind an OpenAI-compatible endpoint."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from custom_components.config import UserError
from custom_components.data.verified import problem_key
from custom_components.http import Endpoint, EndpointError

DOMAINS = (
    "arithmetic",
    "algebra",
    "geometry",
    "trigonometry",
    "number theory",
    "combinatorics",
    "probability",
    "calculus",
    "linear algebra",
    "other",
)
DIFFICULTIES = ("elementary", "middle school", "high school", "college", "graduate")
PROMPT = """Label this mathematics problem. Do not solve it.

{problem}

Answer with one JSON object and nothing else: {{"domain": one of {domains}, "difficulty": one of {difficulties}}}"""


class Labeller:
    """Asks one model for the labels that the paper balances by: domain, and level of schooling.

    Labels are kept in `cache`, one line a problem, so that a continued run does not ask twice.

    Args:
        url: up to and including `/v1`.
        model: the endpoint's name for it.
        cache: JSONL file; each rank has one of its own beside it.
        concurrency: requests at the same time.
        api_key_env, timeout, attempts, requests_per_minute: see `Endpoint`.
    """

    def __init__(
        self,
        url: str,
        model: str,
        cache: str,
        concurrency: int = 32,
        api_key_env: str = "OPENAI_API_KEY",
        timeout: float = 120.0,
        attempts: int = 6,
        requests_per_minute: float | None = None,
    ) -> None:
        self.endpoint = Endpoint(
            url.rstrip("/") + "/chat/completions",
            api_key_env=api_key_env,
            timeout=timeout,
            attempts=attempts,
            requests_per_minute=requests_per_minute,
        )
        self.model, self.concurrency = model, concurrency
        rank = os.environ.get("RANK", "0")
        self.cache = Path(cache).with_suffix(f".{rank}.jsonl")
        self.known: dict[str, dict[str, str]] = {}
        for file in sorted(self.cache.parent.glob(f"{Path(cache).stem}.*.jsonl")):
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:  # the line being written when a run was killed
                    continue
                self.known[row["problem_key"]] = row["labels"]

    def labels(self, problems: list[str]) -> dict[str, dict[str, str]]:
        """Labels of each problem; without an entry where the model's reply could not be used.

        Raises:
            UserError: when the endpoint refuses or is gone.
        """
        keys = {problem: str(problem_key(problem)) for problem in problems}
        missing = [p for p in problems if keys[p] not in self.known]
        self.cache.parent.mkdir(parents=True, exist_ok=True)
        with (
            ThreadPoolExecutor(self.concurrency) as threads,
            open(self.cache, "a", encoding="utf-8") as file,
        ):
            for problem, labels in zip(missing, threads.map(self._ask, missing), strict=True):
                self.known[keys[problem]] = labels
                file.write(json.dumps({"problem_key": keys[problem], "labels": labels}) + "\n")
        return {p: self.known[k] for p, k in keys.items() if self.known[k]}

    def _ask(self, problem: str) -> dict[str, str]:
        text = PROMPT.format(
            problem=problem[:8000], domains=", ".join(DOMAINS), difficulties=", ".join(DIFFICULTIES)
        )
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": 100,
        }
        try:
            return self.endpoint.post(body, read_labels)
        except EndpointError as e:
            if e.refused or "without sense" not in e.words:
                raise UserError(f"labeller: {e}; the same command continues") from e
            return {}


def read_labels(reply: Any) -> dict[str, str]:
    """The labels in a chat completion.

    Raises:
        ValueError: when it holds none of the known ones.
    """
    try:
        text = reply["choices"][0]["message"]["content"]
        found = json.loads(text[text.index("{") : text.rindex("}") + 1])
        domain, difficulty = str(found["domain"]).lower(), str(found["difficulty"]).lower()
    except (KeyError, IndexError, TypeError) as e:
        raise ValueError("no labels") from e
    if domain not in DOMAINS or difficulty not in DIFFICULTIES:
        raise ValueError(f"unknown labels {domain!r}, {difficulty!r}")
    return {"domain": domain, "difficulty": difficulty}

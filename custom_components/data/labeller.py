"""Label a problem's domain and difficulty with a model behind an OpenAI-compatible endpoint."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from custom_components.config import UserError
from custom_components.data.verified import problem_key
from custom_components.http import ChatEndpoint, ChatReply, EndpointError
from custom_components.io import Journal

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
SAMPLING = {"temperature": 0, "max_tokens": 100}


class Labeller:
    """Ask one model for the labels that the paper balances by: domain and level of schooling.

    The labels of each problem are kept in `cache`, so that a resumed run does not ask again.

    Args:
        url: address up to and including `/v1`.
        model: the endpoint's name for the model.
        cache: JSONL file; each rank writes a file of its own beside it.
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
        self.endpoint = ChatEndpoint(
            url,
            model,
            api_key_env=api_key_env,
            timeout=timeout,
            attempts=attempts,
            requests_per_minute=requests_per_minute,
        )
        self.concurrency = concurrency
        self.journal = Journal(Path(cache).with_suffix(f".{os.environ.get('RANK', '0')}.jsonl"))
        files = sorted(Path(cache).parent.glob(f"{Path(cache).stem}.*.jsonl"))
        self.known: dict[str, dict[str, str]] = {
            row["problem_key"]: row["labels"] for file in files for row in Journal(file).read()
        }

    def labels(self, problems: list[str]) -> dict[str, dict[str, str]]:
        """Return {problem: labels}, without the problems whose reply could not be used.

        Raises:
            UserError: if the endpoint refuses the requests or is gone.
        """
        keys = {problem: str(problem_key(problem)) for problem in problems}
        missing = [p for p in problems if keys[p] not in self.known]
        with ThreadPoolExecutor(self.concurrency) as threads:
            for problem, labels in zip(missing, threads.map(self._ask, missing), strict=True):
                self.known[keys[problem]] = labels
                self.journal.append({"problem_key": keys[problem], "labels": labels})
        return {p: self.known[k] for p, k in keys.items() if self.known[k]}

    def _ask(self, problem: str) -> dict[str, str]:
        text = PROMPT.format(
            problem=problem[:8000], domains=", ".join(DOMAINS), difficulties=", ".join(DIFFICULTIES)
        )
        try:
            return self.endpoint.ask([{"role": "user", "content": text}], SAMPLING, read_labels)
        except EndpointError as e:
            if not e.unusable:
                raise UserError(f"labeller: {e}; the same command continues") from e
            return {}


def read_labels(reply: ChatReply) -> dict[str, str]:
    """Return the labels in a reply.

    Raises:
        ValueError: if it holds none of the known ones.
    """
    text = reply.content
    try:
        labels = json.loads(text[text.index("{") : text.rindex("}") + 1])
        domain, difficulty = str(labels["domain"]).lower(), str(labels["difficulty"]).lower()
    except (KeyError, TypeError) as e:
        raise ValueError("no labels") from e
    if domain not in DOMAINS or difficulty not in DIFFICULTIES:
        raise ValueError(f"unknown labels {domain!r}, {difficulty!r}")
    return {"domain": domain, "difficulty": difficulty}

"""Any OpenAI-compatible endpoint as a rollout engine: texts only, for teachers."""

import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch

from custom_components.config import UserError
from custom_components.engines.engine import Conversation, Reply, Sampling
from custom_components.engines.heartbeat import beat
from custom_components.http import ChatEndpoint, ChatReply, EndpointError
from custom_components.tokenizer.chat import ChatTokenizer

_HOPELESS = (401, 402, 403, 404)  # no other request will fare better
_GONE = 5  # conversations in a row that failed without any reply in between


class _Stopped(Exception):
    """No further request is to be sent."""


class ServerEngine:
    """An endpoint's `/chat/completions`, one request for each reply.

    Requests carry no seed (vLLM's CPU build does not survive one), so a run cannot be repeated
    to the letter.

    Args:
        url: up to and including `/v1`.
        model: the endpoint's name for it; it goes into the rows.
        concurrency: requests at the same time.
        api_key_env: environment variable with the key; none is sent when it is not set.
        timeout: seconds for one attempt of a request: for the whole response, since it is not
            streamed.
        attempts: tries of a request that fails in passing.
        requests_per_minute: limit of this process; no limit when None.
        price_in, price_out: USD per million tokens of prompt and response.
        max_cost: USD after which nothing more is sent (what is under way then is still paid
            for); no limit when None. With several ranks, each counts its own.
        extra_body: further fields of each request.
        system_prompt: content of a system turn before the problem; none when None.
        instruction: text appended to every problem, after a newline; none when empty.
        tokenizer: ignored: the endpoint has its own.

    Raises:
        ValueError: when an argument makes no sense.
    """

    rope_factors = None

    def __init__(
        self,
        url: str,
        model: str,
        concurrency: int = 64,
        api_key_env: str = "OPENAI_API_KEY",
        timeout: float = 600.0,
        attempts: int = 6,
        requests_per_minute: float | None = None,
        price_in: float = 0.0,
        price_out: float = 0.0,
        max_cost: float | None = None,
        extra_body: dict[str, Any] | None = None,
        system_prompt: str | None = None,
        instruction: str = "",
        tokenizer: Any = None,
    ) -> None:
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        if max_cost is not None and not (price_in or price_out):
            raise ValueError("max_cost needs price_in and price_out, USD per million tokens")
        self.endpoint = ChatEndpoint(
            url,
            model,
            api_key_env=api_key_env,
            timeout=timeout,
            attempts=attempts,
            requests_per_minute=requests_per_minute,
        )
        self.name, self.concurrency, self.max_cost = model, concurrency, max_cost
        self.price_in, self.price_out = price_in, price_out
        self.extra_body = extra_body or {}
        self.system_prompt, self.instruction = system_prompt, instruction
        self.spent = 0.0
        self._failed_in_a_row = 0
        self._lock = threading.Lock()

    # the same turns as a model of our own would see
    complete_prompt = ChatTokenizer.complete_prompt

    def complete(
        self,
        conversations: list[Conversation],
        n: int,
        sampling: Sampling,
        on_done: Callable[[int, list[Reply]], None],
    ) -> dict[int, str]:
        """n replies to each conversation, handed to `on_done` as soon as all n are there.

        Returns:
            {index: why} of the conversations of which a request failed after all attempts.

        Raises:
            UserError: when max_cost is reached, or the endpoint refuses everything or is gone.
        """
        prompts = [self.complete_prompt(turns) for turns in conversations]
        options = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
        } | self.extra_body
        jobs: queue.SimpleQueue[int] = queue.SimpleQueue()
        outcomes: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        for i in range(len(prompts)):
            for _ in range(n):
                jobs.put(i)
        failures: dict[int, str] = {}
        given_up: set[int] = set()
        stop = threading.Event()

        def before(i: int) -> None:
            over = self.max_cost is not None and self.spent >= self.max_cost
            if over or i in given_up or stop.is_set():
                raise _Stopped

        def work() -> None:
            while True:
                try:
                    i = jobs.get_nowait()
                except queue.Empty:
                    return
                try:
                    before(i)  # else each of them would wait for its turn first
                    outcome = self.endpoint.ask(prompts[i], options, self._read, partial(before, i))
                except Exception as e:
                    outcome = e
                    if isinstance(e, EndpointError):
                        given_up.add(i)
                outcomes.put((i, outcome))

        # daemons: a run that gives up does not wait for the requests under way
        for _ in range(min(self.concurrency, len(prompts) * n)):
            threading.Thread(target=work, name="endpoint", daemon=True).start()
        replies: dict[int, list[Reply]] = defaultdict(list)
        unsent = 0
        try:
            for _ in range(len(prompts) * n):
                i, outcome = outcomes.get()
                if isinstance(outcome, Reply):
                    beat()
                    replies[i].append(outcome)
                    if len(replies[i]) == n:
                        on_done(i, replies.pop(i))
                elif isinstance(outcome, EndpointError):
                    if i not in failures:
                        self._check_alive(outcome)
                        failures[i] = str(outcome)
                elif isinstance(outcome, _Stopped):
                    unsent += i not in given_up
                else:
                    raise outcome
        finally:
            stop.set()
        if unsent:
            raise UserError(
                f"spent ${self.spent:.4f} at {self.endpoint.url}, which reaches engine.max_cost="
                f"{self.max_cost:g}; the same command with a higher max_cost continues"
            )
        return failures

    def _read(self, reply: ChatReply) -> Reply:
        """Return the reply as text, and count its cost.

        Raises:
            ValueError: if it holds no response that ended or reached the limit.
            UserError: if max_cost is set and the cost is not known.
        """
        if self.max_cost is not None and reply.usage is None:
            raise UserError(
                f"{self.endpoint.url} reports no usage, so engine.max_cost cannot be kept; set "
                "engine.max_cost=null"
            )
        usage = reply.usage or {"prompt_tokens": 0, "completion_tokens": 0}
        num_tokens = usage["completion_tokens"]
        cost = (usage["prompt_tokens"] * self.price_in + num_tokens * self.price_out) / 1e6
        with self._lock:
            self.spent += cost
            self._failed_in_a_row = 0
        if reply.finish_reason not in ("stop", "length"):
            raise ValueError(f"finish_reason {reply.finish_reason!r}")
        text = response_text(reply)
        if not text:
            raise ValueError("an empty response")
        return Reply(text, num_tokens, reply.finish_reason, cost)

    def _check_alive(self, failure: EndpointError) -> None:
        """Count a failed conversation.

        Raises:
            UserError: when the others need not be tried.
        """
        with self._lock:
            self._failed_in_a_row += 1
        if failure.status in _HOPELESS:
            raise UserError(
                f"the endpoint refuses: {failure}; check engine.url, engine.model and the key in "
                "the variable named by engine.api_key_env, then run the same command"
            )
        if self._failed_in_a_row >= _GONE:
            raise UserError(
                f"the endpoint is gone: {_GONE} problems in a row failed, the last with {failure}; "
                "the same command continues once it answers"
            )

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """An endpoint keeps its weights."""
        raise UserError("an endpoint takes no weights; train with engine torch or vllm")

    def generate(self, prompt_ids: list[list[int]], n: int, sampling: Sampling) -> None:
        """An endpoint has no token ids."""
        raise UserError("an endpoint gives text, not token ids; use engine torch or vllm here")

    def close(self) -> None:
        """Nothing to free."""


def response_text(reply: ChatReply) -> str:
    """Join a reply to one response, with separate reasoning in <think> tags.

    A reply that is cut off before its content leaves <think> open.
    """
    # Half of a surrogate pair cannot be encoded as UTF-8, so it is replaced.
    content, reasoning = (
        text.strip().encode("utf-8", "replace").decode()
        for text in (reply.content, reply.reasoning)
    )
    if not reasoning:
        return content
    if reply.finish_reason == "length" and not content:
        return f"<think>\n{reasoning}"
    return f"<think>\n{reasoning}\n</think>\n\n{content}"

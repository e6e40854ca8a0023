"""Use any OpenAI-compatible endpoint as a rollout engine: texts only, for teachers."""

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
from custom_components.tokenizer.chat import complete_turns
from custom_components.tokenizer.prompt_form import warn
from custom_components.tokenizer.thought import OPENED, lacks_opening, whole_response

# After one of these statuses every other request will fail, too.
_HOPELESS = (401, 402, 403, 404)
# The endpoint is gone when this many conversations in a row fail without a reply in between.
_GONE = 5


class _Stopped(Exception):
    """Signal that no further request is to be sent."""


class ServerEngine:
    """Ask an endpoint's `/chat/completions`, with one request for each reply.

    Requests carry no seed (vLLM's CPU build crashes on one), so a run cannot be repeated exactly.

    Args:
        url: address of the endpoint, up to and including `/v1`.
        model: the endpoint's name for the model; it is stored in the rows.
        concurrency: requests at the same time.
        api_key_env: environment variable with the key; no key is sent when it is not set.
        timeout: seconds for one attempt of a request, including the whole response, which is not
            streamed.
        attempts: attempts of a request that fails temporarily.
        requests_per_minute: limit of this process; no limit when None.
        price_in, price_out: USD per million tokens of prompt and response.
        max_cost: USD after which no request is sent (requests under way are still paid for); no
            limit when None. Each rank counts its own costs.
        extra_body: further fields of each request.
        system_prompt: content of a system turn before the problem; no such turn when None.
        instruction: text appended to every problem, after a newline; nothing when empty.
        reasoning_open: whether the model's chat template ends the prompt in <think>, and the
            endpoint does not keep the reasoning apart from the content; then <think> is put before
            every reply.
        tokenizer: ignored, because the endpoint has its own.

    Raises:
        ValueError: if an argument is out of range.
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
        reasoning_open: bool = False,
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
        self.name = model
        self.concurrency = concurrency
        self.max_cost = max_cost
        self.price_in = price_in
        self.price_out = price_out
        self.extra_body = extra_body or {}
        self.system_prompt = system_prompt
        self.instruction = instruction
        self.reasoning_open = reasoning_open
        self.spent = 0.0
        self._failed_in_a_row = 0
        self._lock = threading.Lock()

    def complete(
        self,
        conversations: list[Conversation],
        n: int,
        sampling: Sampling,
        on_done: Callable[[int, list[Reply]], None],
    ) -> dict[int, str]:
        """Answer each conversation n times, and call `on_done` as soon as all n replies are there.

        Returns:
            {index: reason} of the conversations with a request that failed after all attempts.

        Raises:
            UserError: if max_cost is reached, or the endpoint refuses every request or is gone.
        """
        prompts = [
            complete_turns(turns, self.system_prompt, self.instruction) for turns in conversations
        ]
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
                    before(i)  # here too, or each request would first wait for its turn
                    outcome = self.endpoint.ask(prompts[i], options, self._read, partial(before, i))
                except Exception as e:
                    outcome = e
                    if isinstance(e, EndpointError):
                        given_up.add(i)
                outcomes.put((i, outcome))

        # Threads are daemons, so a run that gives up does not wait for the requests under way.
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
            ValueError: if it holds no response that ended or reached the length limit.
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
        text = response_text(reply, self.reasoning_open)
        if not text:
            raise ValueError("an empty response")
        if lacks_opening(reply.content) and not (reply.reasoning or self.reasoning_open):
            warn(
                f"{self.endpoint.url} opens <think> in the prompt, so a reply that is cut off inside "
                "it looks like an answer; set engine.reasoning_open=true, or reasoning_open: true of "
                "the source in curate.yaml"
            )
        return Reply(text, num_tokens, reply.finish_reason, cost)

    def _check_alive(self, failure: EndpointError) -> None:
        """Count a failed conversation.

        Raises:
            UserError: if the other conversations will fail, too.
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
        """Refuse new weights, which an endpoint does not take."""
        raise UserError("an endpoint takes no weights; train with engine torch or vllm")

    def generate(self, prompt_ids: list[list[int]], n: int, sampling: Sampling) -> None:
        """Refuse, because an endpoint has no token ids."""
        raise UserError("an endpoint gives text, not token ids; use engine torch or vllm here")

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


def response_text(reply: ChatReply, reasoning_open: bool = False) -> str:
    """Join a reply to one response, with separate reasoning in <think> tags.

    A reply that is cut off before its content leaves <think> open.

    Args:
        reply: reply of the endpoint.
        reasoning_open: whether content without separate reasoning begins inside <think>.
    """
    # Half of a surrogate pair cannot be encoded as UTF-8, so it is replaced.
    content, reasoning = (
        text.strip().encode("utf-8", "replace").decode()
        for text in (reply.content, reply.reasoning)
    )
    if not reasoning:
        return whole_response(content, OPENED if reasoning_open else "") if content else ""
    if reply.finish_reason == "length" and not content:
        return f"<think>\n{reasoning}"
    return f"<think>\n{reasoning}\n</think>\n\n{content}"

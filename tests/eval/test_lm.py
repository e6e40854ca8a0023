"""Test EngineLM: repeats, interrupted runs, endpoints."""

import json

import pytest
from fake_endpoint import FakeEndpoint, completion
from lm_eval.api.instance import Instance

from custom_components.config import UserError
from custom_components.engines.engine import Completion, Reply
from custom_components.engines.watchdog import WatchedEngine
from eval.lm import EngineLM

OPTIONS = {"until": [], "temperature": 0.6, "top_p": 0.95, "max_gen_toks": 8}


class Tokenizer:
    """Encode a character as a token."""

    path, system_prompt = "characters", None

    def hf(self, text, add_special_tokens):
        return {"input_ids": [ord(c) for c in text]}

    def decode(self, ids):
        return "".join(map(chr, ids))


class Engine:
    """Answer with the prompt and the call's seed; fail in the call `fail_at`."""

    name = "engine"

    def __init__(self, fail_at=None):
        self.calls = []
        self.fail_at = fail_at

    def generate(self, prompt_ids, n, sampling):
        if len(self.calls) == self.fail_at:
            raise UserError("the engine failed")
        self.calls.append(len(prompt_ids))
        tail = [ord(c) for c in f" {sampling.seed}"]
        return [[Completion(ids + tail, [], "length")] for ids in prompt_ids]


def requests(prompts):
    return [Instance("generate_until", {}, (p, OPTIONS), i) for i, p in enumerate(prompts)]


def test_an_interrupted_run_asks_for_what_is_missing_and_ends_the_same(tmp_path):
    prompts = [x for x in "abcde" for _ in range(2)]
    whole = EngineLM(Engine(), Tokenizer(), 7, group=3).generate_until(requests(prompts))
    replies = tmp_path / "replies.jsonl"
    first = EngineLM(Engine(fail_at=2), Tokenizer(), 7, replies=replies, group=3)
    with pytest.raises(UserError, match="the engine failed"):
        first.generate_until(requests(prompts))
    with open(replies, "a") as f:
        f.write('{"key": "half a li')  # killed while writing
    engine = Engine()
    again = EngineLM(engine, Tokenizer(), 7, replies=replies, group=3).generate_until(
        requests(prompts)
    )
    assert engine.calls == [3, 1]
    assert again == whole
    assert all(r.finish_reason == "length" and r.num_tokens == len(r) for r in again)
    assert len({r.split()[1] for r in whole}) == 4  # each group has a seed of its own


def test_a_task_that_stops_elsewhere_is_refused():
    request = Instance("generate_until", {}, ("a", OPTIONS | {"until": ["\n"]}), 0)
    with pytest.raises(UserError, match="until"):
        EngineLM(Engine(), Tokenizer()).generate_until([request])


def test_an_endpoint_answers_conversations_and_pays_once(tmp_path):
    def reply(question, number):
        return completion(f"{question}{number}")

    with_chat = [json.dumps([{"role": "user", "content": x}]) for x in "abc" for _ in range(2)]
    with FakeEndpoint(reply) as endpoint:
        node = {
            "_component_": "custom_components.engines.server_engine.ServerEngine",
            "url": endpoint.url,
            "model": "m",
        }
        lm = EngineLM(WatchedEngine(node, None, 60), None, replies=tmp_path / "s.jsonl", group=2)
        got = lm.generate_until(requests(with_chat))
        assert [g[0] for g in got] == list("aabbcc")
        assert len(set(got)) == 6  # repeats are requests of their own
        assert all("seed" not in request for request in endpoint.requests)
        assert lm.generate_until(requests(with_chat)) == got
        assert endpoint.count == 6


def test_what_an_endpoint_gave_before_it_failed_is_kept(tmp_path):
    class Partial:
        name = "partial"

        def complete(self, conversations, n, sampling, on_done):
            on_done(0, [Reply("first", 3, "stop")])
            return {1: "HTTP 500"}

    chat = [json.dumps([{"role": "user", "content": x}]) for x in "ab"]
    lm = EngineLM(Partial(), None, replies=tmp_path / "s.jsonl")
    with pytest.raises(UserError, match="1 of 2 requests failed, the first with: HTTP 500"):
        lm.generate_until(requests(chat))
    assert [json.loads(x)["text"] for x in open(tmp_path / "s.jsonl")] == ["first"]

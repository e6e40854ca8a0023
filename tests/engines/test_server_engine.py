"""Test the server engine against an endpoint on this machine."""

import threading
import time

import pytest
from fake_endpoint import FakeEndpoint, completion

from custom_components import http
from custom_components.config import UserError
from custom_components.engines.engine import Completion, Reply, Sampling, TokensAsText
from custom_components.engines.heartbeat import beats
from custom_components.engines.replies import ReplyFile, cost_of_unfinished
from custom_components.engines.server_engine import ServerEngine, response_text
from custom_components.engines.watchdog import WatchedEngine
from custom_components.http import ChatReply
from custom_components.tokenizer.prompt_form import warn

SAMPLING = Sampling(temperature=0.6, top_p=0.95, max_new_tokens=100, seed=3)


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Record the waits between attempts instead of waiting."""
    waited = []
    monkeypatch.setattr("custom_components.http.time.sleep", waited.append)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return waited


def ask(server, *questions, n=1, **options):
    """Return replies by question, failures by index, and the engine."""
    options = {"concurrency": 4, "timeout": 20, **options}
    engine = ServerEngine(server if isinstance(server, str) else server.url, "teacher", **options)
    got: dict[str, list[Reply]] = {}

    def on_done(i, replies):
        assert questions[i] not in got
        got[questions[i]] = replies

    turns = [[{"role": "user", "content": q}] for q in questions]
    return got, engine.complete(turns, n, SAMPLING, on_done), engine


def texts(got):
    return {q: [r.text for r in replies] for q, replies in got.items()}


def test_a_reply_with_reasoning_and_what_was_sent(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret\n")
    before = beats()
    said = completion("\n\nIt is \\boxed{3}.", reasoning_content="\n1+2 is 3\n")
    with FakeEndpoint(lambda *_: said) as server:
        got, failed, engine = ask(
            server,
            "1+2=?",
            api_key_env="SOME_KEY",
            instruction="Box it.",
            system_prompt="Think.",
            extra_body={"reasoning_effort": "high"},
            price_in=1.0,
            price_out=10.0,
        )
    text = "<think>\n1+2 is 3\n</think>\n\nIt is \\boxed{3}."
    assert got == {"1+2=?": [Reply(text, 5, "stop", pytest.approx(60e-6))]}
    assert failed == {} and engine.spent == pytest.approx(60e-6) and beats() != before
    assert server.requests == [
        {
            "model": "teacher",
            "messages": [
                {"role": "system", "content": "Think."},
                {"role": "user", "content": "1+2=?\nBox it."},
            ],
            "temperature": 0.6,
            "top_p": 0.95,
            "max_tokens": 100,
            "reasoning_effort": "high",
        }
    ]
    assert server.headers[0]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("message", "finish_reason", "text"),
    [
        ({"content": "<think>a</think>b"}, "stop", "<think>a</think>b"),
        ({"content": "b", "reasoning": "a"}, "stop", "<think>\na\n</think>\n\nb"),
        ({"content": "b", "reasoning_content": None}, "stop", "b"),
        ({"content": None, "reasoning_content": "a"}, "length", "<think>\na"),
        ({"content": "b", "reasoning_content": "a"}, "length", "<think>\na\n</think>\n\nb"),
        ({"content": "half \ud800"}, "stop", "half ?"),
    ],
)
def test_texts(message, finish_reason, text):
    choice = {"message": message, "finish_reason": finish_reason}
    assert response_text(ChatReply.read({"choices": [choice]})) == text


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "a</think>b"}, "<think>\na</think>b"),
        ({"content": "a"}, "<think>\na"),
        ({"content": "<think>a"}, "<think>a"),
        ({"content": "b", "reasoning": "a"}, "<think>\na\n</think>\n\nb"),
        ({"content": " "}, ""),
    ],
)
def test_texts_of_a_template_that_opens_the_thought(message, text):
    reply = ChatReply.read({"choices": [{"message": message, "finish_reason": "length"}]})
    assert response_text(reply, reasoning_open=True) == text


@pytest.mark.parametrize("reasoning_open", [False, True])
def test_a_template_that_opens_the_thought_is_noticed(capsys, reasoning_open):
    warn.cache_clear()
    turns = [[{"role": "user", "content": "a"}]] * 3
    with FakeEndpoint(lambda question, number: completion("a</think>b")) as server:
        got = {}
        engine = ServerEngine(server.url, "m", reasoning_open=reasoning_open)
        assert engine.complete(turns, 1, SAMPLING, got.__setitem__) == {}
    assert [replies[0].text for replies in got.values()] == ["<think>\na</think>b"] * 3
    said = capsys.readouterr().err
    assert said.count("set engine.reasoning_open=true") == (0 if reasoning_open else 1)


def test_order_and_number_of_replies():
    def reply(question, number):
        time.sleep(0.02 if question == "a" else 0)
        return completion(f"{question}{number}", "length" if question == "b" else "stop")

    questions = ["a", "b", "c", "d", "e"]
    with FakeEndpoint(reply) as server:
        got, failed, _ = ask(server, *questions, n=3, concurrency=2)
    assert server.asked() == dict.fromkeys(questions, 3)
    assert server.most_running <= 2 and failed == {}
    assert set(got) == set(questions)
    for question, replies in got.items():
        assert len({r.text for r in replies}) == 3 and {r.text[0] for r in replies} == {question}
        assert {r.finish_reason for r in replies} == {"length" if question == "b" else "stop"}


def test_replies_come_while_others_are_under_way():
    first_done = threading.Event()

    def reply(question, _):
        assert question == "early" or first_done.wait(20)
        return completion(question)

    with FakeEndpoint(reply) as server:
        engine = ServerEngine(server.url, "t", concurrency=2)
        turns = [[{"role": "user", "content": q}] for q in ("late", "early")]
        order = []
        engine.complete(turns, 1, SAMPLING, lambda i, _: (order.append(i), first_done.set()))
    assert order == [1, 0]


def test_too_many_requests_waits_as_told(waits):
    says = {1: (429, {"Retry-After": "17"}), 2: (429, {"Retry-After": "999999"})}
    with FakeEndpoint(lambda _, k: says.get(k, completion("x"))) as server:
        got, failed, _ = ask(server, "q")
    assert texts(got) == {"q": ["x"]} and failed == {}
    assert waits == [17, 600]


def test_server_errors_and_garbage_are_tried_again(waits):
    says = {1: 500, 2: b"<html>", 3: b"[]", 4: {"choices": []}, 5: 503}
    with FakeEndpoint(lambda _, k: says.get(k, completion("x"))) as server:
        got, failed, _ = ask(server, "q")
    assert texts(got) == {"q": ["x"]} and failed == {}
    assert len(waits) == 5
    for wait, longest in zip(waits, (1, 2, 4, 8, 16), strict=True):
        assert longest / 2 <= wait <= longest


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (completion("x", "content_filter"), "finish_reason 'content_filter'"),
        (completion("", "stop"), "an empty response"),
        (completion(None, "stop"), "an empty response"),
        ({"error": "x"}, "no chat completion"),
        (b"<html>", "an unusable reply"),
        (502, "HTTP 502: words of the endpoint"),
    ],
)
def test_a_conversation_fails_alone(said, why):
    def reply(question, _):
        return completion("x") if question != "bad" else said

    with FakeEndpoint(reply) as server:
        got, failed, _ = ask(server, "a", "bad", "b", n=2, attempts=3, concurrency=1)
    assert set(got) == {"a", "b"} and set(failed) == {1}
    assert why in failed[1] and "(3 attempts)" in failed[1] and server.url in failed[1]
    assert "\n" not in failed[1]
    assert server.asked() == {"a": 2, "bad": 3, "b": 2}  # no request for its second reply


def test_a_refused_request_is_not_repeated():
    with FakeEndpoint(lambda q, _: 400 if q == "bad" else completion("x")) as server:
        got, failed, _ = ask(server, "bad", "a")
    assert failed.keys() == {0} and "HTTP 400: words of the endpoint" in failed[0]
    assert server.asked() == {"bad": 1, "a": 1}


def test_a_wrong_key_stops_at_once():
    with FakeEndpoint(lambda *_: 401) as server:
        with pytest.raises(UserError, match="HTTP 401: words of the endpoint; check engine.url"):
            ask(server, *map(str, range(50)), n=4, concurrency=1)
        assert len(server.requests) <= 2


def test_an_endpoint_that_goes_away_stops_the_rest():
    with FakeEndpoint(lambda *_: completion("x")) as server:
        engine = ServerEngine(server.url, "t", concurrency=2, attempts=2)
        done = []

        def on_done(i, _):
            done.append(i)
            if len(done) == 10:
                server.close()

        turns = [[{"role": "user", "content": str(i)}] for i in range(2000)]
        with pytest.raises(UserError, match="the endpoint is gone: 5 problems in a row.*no reply"):
            engine.complete(turns, 1, SAMPLING, on_done)
    assert 10 <= len(done) < 100


def test_costs_up_to_a_limit():
    with FakeEndpoint(lambda *_: completion("x")) as server:
        prices = {"price_in": 1000.0, "price_out": 2000.0, "concurrency": 1}  # 0.02 per reply
        with pytest.raises(UserError) as stopped:
            ask(server, *map(str, range(50)), max_cost=0.0799, **prices)
        assert 4 <= len(server.requests) <= 5
        assert "spent $0.0800" in str(stopped.value)
        assert "the same command with a higher max_cost continues" in str(stopped.value)
        _, _, engine = ask(server, "a", "b", max_cost=0.04, **prices)
        assert engine.spent == pytest.approx(0.04)


def test_a_limit_of_cost_needs_prices_and_usage():
    with pytest.raises(ValueError, match="max_cost needs price_in and price_out"):
        ServerEngine("http://x/v1", "t", max_cost=1.0)
    with FakeEndpoint(lambda *_: completion("x", usage=None)) as server:
        got, _, engine = ask(server, "q", price_out=1.0)
        assert got["q"][0].num_tokens == 0 and engine.spent == 0
        with pytest.raises(UserError, match="reports no usage"):
            ask(server, "q", price_out=1.0, max_cost=1.0)


def test_a_rate_limit_spaces_the_requests(monkeypatch):
    """Six requests at 30 a minute, on a stopped clock, wait 0, 2, 4, ... seconds."""
    waited = []
    monkeypatch.setattr(
        http,
        "time",
        type(
            "Clock",
            (),
            {"monotonic": staticmethod(lambda: 100.0), "sleep": staticmethod(waited.append)},
        ),
    )
    with FakeEndpoint(lambda *_: completion("x")) as server:
        got, _, _ = ask(server, "a", "b", n=3, requests_per_minute=30)
    assert sorted(waited) == [0, 2, 4, 6, 8, 10]
    assert len(got) == 2


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3),
        (None, 0),
        ("soon", 0),
        ("-1", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("nan", 0),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 600),
    ],
)
def test_retry_after(header, seconds):
    assert http._retry_after(header) == seconds


def test_arguments_out_of_range():
    for options in (
        {"url": "localhost:8000"},
        {"attempts": 0},
        {"concurrency": 0},
        {"requests_per_minute": -1},
    ):
        with pytest.raises(ValueError):
            ServerEngine(**{"url": "http://x/v1", "model": "t", **options})


NODE = {"_component_": "custom_components.engines.server_engine.ServerEngine", "model": "t"}


def test_a_watched_endpoint_and_calls_it_cannot_answer():
    with FakeEndpoint(lambda *_: completion("x")) as server:
        engine = WatchedEngine(NODE | {"url": server.url}, None, timeout=60)
        got = []
        engine.complete(
            [[{"role": "user", "content": "q"}]], 2, SAMPLING, lambda i, r: got.append(r)
        )
        assert [[r.text for r in replies] for replies in got] == [["x", "x"]]
        with pytest.raises(UserError, match="takes no weights"):
            engine.load_weights([], 0)
        with pytest.raises(UserError, match="text, not token ids"):
            engine.generate([[1]], 1, SAMPLING)
    with pytest.raises(UserError, match="engine: .*does not start with http"):
        WatchedEngine(NODE | {"url": "x"}, None, timeout=60)
    teacher = {"_component_": "custom_components.engines.teacher.AdditionTeacher"}
    with pytest.raises(UserError, match="^tokenizer: .*AdditionTeacher needs its model's"):
        WatchedEngine(teacher, None, timeout=60)


class Letters:
    """Act as engine and tokenizer of character codes; it repeats the prompt n times."""

    name = "letters"

    def generate(self, prompt_ids, n, sampling):
        return [[Completion(ids, [], "length")] * n for ids in prompt_ids]

    def complete_prompt(self, turns):
        return [{**turns[-1], "content": turns[-1]["content"] + "!"}]

    def encode_messages(self, turns):
        return [ord(c) for c in turns[-1]["content"]]

    def decode_response(self, ids):
        return "".join(map(chr, ids))


def test_tokens_as_text():
    got = {}
    turns = [[{"role": "user", "content": q}] for q in ("ab", "c")]
    assert TokensAsText(Letters(), Letters()).complete(turns, 2, SAMPLING, got.__setitem__) == {}
    assert got == {0: [Reply("ab!", 3, "length")] * 2, 1: [Reply("c!", 2, "length")] * 2}


def test_a_reply_file_survives_being_cut_anywhere(tmp_path):
    path = tmp_path / ".spool-00000.jsonl"
    kept_replies = ReplyFile(path)
    for i in range(3):
        kept_replies.add(0, i, [Reply("é\n" * 3, i, "stop", 0.5)] * 2)
    whole, data = dict(kept_replies.replies), path.read_bytes()
    ends = [0] + [k + 1 for k, byte in enumerate(data) if byte == ord("\n")]
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        again = ReplyFile(path)
        kept = sum(end - 1 <= size for end in ends) - 1  # an entry without its line's end counts
        assert again.replies == {key: whole[key] for key in list(whole)[:kept]}
        assert cost_of_unfinished(tmp_path) == kept * 1.0
        for (number, i), replies in list(whole.items())[kept:]:
            again.add(number, i, replies)
        assert ReplyFile(path).replies == whole
    again.remove()
    assert not path.exists()

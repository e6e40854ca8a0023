"""Test the second opinion against a server on this machine."""

from __future__ import annotations

import threading
import time

import pytest
from fake_endpoint import FakeEndpoint, completion

from custom_components.data.second_opinion import RefusedError, SecondOpinion
from custom_components.verifier import Verdict, verify

WRONG = verify("infinitely many", r"\boxed{\text{there is no end of them}}")
ROW = ("How many?", "infinitely many", WRONG)


def endpoint(reply):
    """Return an endpoint that sends the (status, content) of `reply(prompt, request number)`."""

    def answer(prompt, number):
        status, content = reply(prompt, number)
        return completion(content) if status == 200 else status

    return FakeEndpoint(answer)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("custom_components.http.time.sleep", lambda _: None)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def second_opinion(server, tmp_path, **options):
    options = {"max_requests": 100, **options}
    return SecondOpinion(server.url, "m", cache=tmp_path / "cache", **options)


def test_an_opinion_and_what_was_sent(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    with endpoint(lambda *_: (200, "They agree.\nVerdict: same")) as server:
        opinion = second_opinion(server, tmp_path, api_key_env="SOME_KEY").opinion(*ROW)
    assert (opinion.opinion, opinion.cached) == ("same", False)
    (body,) = server.requests
    prompt = body["messages"][0]["content"]
    assert (body["model"], body["temperature"]) == ("m", 0)
    for text in ("How many?", "infinitely many", r"\text{there is no end of them}"):
        assert text in prompt
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert "secret" not in "".join(p.read_text() for p in (tmp_path / "cache").rglob("*.json"))


def test_the_verdict_stays_what_it_was(tmp_path):
    with endpoint(lambda *_: (200, "Verdict: same")) as server:
        second_opinion(server, tmp_path).opinion(*ROW)
    assert (WRONG.verdict, WRONG.reason) == ("incorrect", "not_equal")


@pytest.mark.parametrize(
    "reply, expected",
    [
        ("Verdict: different", "different"),
        ("**Verdict:** same", "same"),
        ("Verdict: same? No.\nVerdict: different", "different"),
        ("I cannot tell.", "unclear"),
        ("", "unclear"),
        (None, "unclear"),
    ],
)
def test_replies(tmp_path, reply, expected):
    with endpoint(lambda *_: (200, reply)) as server:
        assert second_opinion(server, tmp_path).opinion(*ROW).opinion == expected


def test_the_cache_is_asked_first(tmp_path):
    with endpoint(lambda *_: (200, "Verdict: same")) as server:
        first = second_opinion(server, tmp_path).opinion(*ROW)
        again = second_opinion(server, tmp_path, max_requests=0).opinion(*ROW)
        other = second_opinion(server, tmp_path).opinion("Another problem", *ROW[1:])
    assert (first.cached, again.cached, other.cached) == (False, True, False)
    assert again.reply == first.reply
    assert len(server.requests) == 2


def test_a_broken_cache_entry_is_asked_again(tmp_path):
    with endpoint(lambda *_: (200, "Verdict: same")) as server:
        second_opinion(server, tmp_path).opinion(*ROW)
        for path in (tmp_path / "cache").rglob("*.json"):
            path.write_text("{")
        assert second_opinion(server, tmp_path).opinion(*ROW).opinion == "same"
    assert len(server.requests) == 2


def test_only_disputable_rejections_are_asked_about(tmp_path):
    rows = [
        ("p", "5", verify("5", r"\boxed{5}")),
        ("p", "5", verify("5", "nothing")),
        ("p", "5", verify("5", r"\boxed{1} or \boxed{5}")),
        ("p", "", verify("", r"\boxed{5}")),
    ]
    with endpoint(lambda *_: (200, "Verdict: same")) as server:
        opinions = second_opinion(server, tmp_path).opinions(rows)
    assert [opinion.opinion for opinion in opinions] == ["not_asked"] * 4
    assert server.requests == []


def test_budget_and_concurrency(tmp_path):
    def reply(*_):
        threading.Event().wait(0.03)
        return 200, "Verdict: different"

    rows = [(f"problem {i}", *ROW[1:]) for i in range(30)]
    with endpoint(reply) as server:
        asker = second_opinion(server, tmp_path, max_requests=12, concurrency=3)
        opinions = [opinion.opinion for opinion in asker.opinions(rows)]
    assert opinions.count("different") == 12
    assert opinions.count("budget") == 18
    assert len(server.requests) == 12
    assert server.most_running <= 3


def test_order_is_kept(tmp_path):
    def reply(prompt, _):
        odd = int(prompt.split("number ")[1].split("\n")[0]) % 2
        threading.Event().wait(0.01 * odd)
        return 200, "Verdict: same" if odd else "Verdict: different"

    rows = [(f"number {i}", *ROW[1:]) for i in range(20)]
    with endpoint(reply) as server:
        opinions = second_opinion(server, tmp_path).opinions(rows)
    assert [opinion.opinion for opinion in opinions] == ["different", "same"] * 10


def test_passing_failures_are_tried_again(tmp_path):
    with endpoint(lambda _, n: (200 if n == 3 else 503, "Verdict: same")) as server:
        assert second_opinion(server, tmp_path).opinion(*ROW).opinion == "same"
    assert len(server.requests) == 3


def test_attempts_end_and_failures_are_not_cached(tmp_path):
    with endpoint(lambda *_: (500, "")) as server:
        assert second_opinion(server, tmp_path, attempts=2).opinion(*ROW).opinion == "failed"
    assert len(server.requests) == 2
    assert not list(tmp_path.rglob("*.json"))


def test_a_refused_key_stops_the_run(tmp_path):
    with endpoint(lambda *_: (401, "")) as server, pytest.raises(RefusedError, match="HTTP 401"):
        second_opinion(server, tmp_path).opinions([ROW] * 3)


def test_no_server(tmp_path):
    gone = SecondOpinion("http://127.0.0.1:9/v1", "m", cache=tmp_path, max_requests=9, attempts=2)
    start = time.monotonic()
    assert gone.opinion(*ROW).opinion == "failed"
    assert time.monotonic() - start < 5


def test_braces_in_the_fields_are_text(tmp_path):
    row = (r"Solve {gold} \frac{1}{2}", r"\{1\}", Verdict("incorrect", "not_equal", "{problem}"))
    with endpoint(lambda *_: (200, "Verdict: same")) as server:
        second_opinion(server, tmp_path).opinion(*row)
    prompt = server.requests[0]["messages"][0]["content"]
    assert r"Solve {gold} \frac{1}{2}" in prompt
    assert "<answer>\n{problem}\n</answer>" in prompt


def test_a_prompt_without_a_field(tmp_path):
    (tmp_path / "prompt.txt").write_text("{gold} {problem}")
    with pytest.raises(ValueError, match="{prediction}"):
        SecondOpinion(
            "http://x/v1", "m", cache=tmp_path, max_requests=1, prompt=tmp_path / "prompt.txt"
        )

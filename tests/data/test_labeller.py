import json

import pytest
from fake_endpoint import FakeEndpoint, completion

from custom_components.config import UserError
from custom_components.data.labeller import Labeller, read_labels
from custom_components.http import ChatReply

LABELS = {"domain": "Geometry", "difficulty": "high school"}


def reply(question, number):
    return completion("I will not." if "riddle" in question else f"Here: {json.dumps(LABELS)}")


def test_labels_are_asked_for_once(tmp_path):
    with FakeEndpoint(reply) as endpoint:
        labeller = Labeller(endpoint.url, "m", str(tmp_path / "labels.jsonl"), attempts=1)
        found = labeller.labels(["a triangle", "a riddle"])
        assert found == {"a triangle": {"domain": "geometry", "difficulty": "high school"}}
        assert endpoint.count == 2
        again = Labeller(endpoint.url, "m", str(tmp_path / "labels.jsonl"), attempts=1)
        assert again.labels(["a riddle", "a  Triangle"]) == {"a  Triangle": found["a triangle"]}
        assert endpoint.count == 2


def test_an_endpoint_that_refuses_ends_the_run(tmp_path):
    with FakeEndpoint(lambda *_: 401) as endpoint:
        labeller = Labeller(endpoint.url, "m", str(tmp_path / "labels.jsonl"))
        with pytest.raises(UserError, match="labeller: .*HTTP 401"):
            labeller.labels(["a triangle"])


def test_unknown_labels_are_no_labels():
    for content, words in (
        ('{"domain": "poetry", "difficulty": "college"}', "unknown labels"),
        ('{"domain": "algebra"}', "no labels"),
        (None, "not found"),
    ):
        with pytest.raises(ValueError, match=words):
            read_labels(ChatReply.read(completion(content)))

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from custom_components.config import UserError
from custom_components.data.labeller import Labeller, read_labels


@pytest.fixture
def endpoint():
    """An endpoint that labels by a script; `asked` counts its requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][0]["content"]
            server.asked.append(text)
            status = 401 if server.refuses else 200
            labels = {"domain": "Geometry", "difficulty": "high school"}
            said = "I will not." if "riddle" in text else f"Here: {json.dumps(labels)}"
            data = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.refuses = [], False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_labels_are_asked_for_once(endpoint, tmp_path):
    url = f"http://127.0.0.1:{endpoint.server_port}/v1"
    labeller = Labeller(url, "m", str(tmp_path / "labels.jsonl"), attempts=1)
    found = labeller.labels(["a triangle", "a riddle"])
    assert found == {"a triangle": {"domain": "geometry", "difficulty": "high school"}}
    assert len(endpoint.asked) == 2
    again = Labeller(url, "m", str(tmp_path / "labels.jsonl"), attempts=1)
    assert again.labels(["a riddle", "a  Triangle"]) == {"a  Triangle": found["a triangle"]}
    assert len(endpoint.asked) == 2


def test_an_endpoint_that_refuses_ends_the_run(endpoint, tmp_path):
    endpoint.refuses = True
    url = f"http://127.0.0.1:{endpoint.server_port}/v1"
    with pytest.raises(UserError, match="labeller: .*HTTP 401"):
        Labeller(url, "m", str(tmp_path / "labels.jsonl")).labels(["a triangle"])


def test_unknown_labels_are_no_labels():
    reply = {"choices": [{"message": {"content": '{"domain": "poetry", "difficulty": "college"}'}}]}
    with pytest.raises(ValueError, match="unknown labels"):
        read_labels(reply)
    with pytest.raises(ValueError):
        read_labels({"choices": []})

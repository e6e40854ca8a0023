"""Run an OpenAI-compatible endpoint on this machine, with the replies of a test."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USAGE = {"prompt_tokens": 10, "completion_tokens": 5}


def completion(content, finish_reason="stop", usage=USAGE, **fields):
    """Return the JSON of a chat completion."""
    choice = {"message": {"content": content, **fields}, "finish_reason": finish_reason}
    return {"choices": [choice], "usage": usage}


class FakeEndpoint:
    """Reply with the result of `reply(question, number of the request)`.

    The result is a JSON object, a status, (status, headers), or bytes.
    """

    def __init__(self, reply):
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.count = self.running = self.most_running = 0
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append(body)
                    outer.headers.append(dict(self.headers))
                    outer.running += 1
                    outer.most_running = max(outer.most_running, outer.running)
                    outer.count += 1
                    number = outer.count
                said = reply(body["messages"][-1]["content"], number)
                with lock:
                    outer.running -= 1
                status, headers, data = 200, {}, b"words of the\nendpoint"
                if isinstance(said, bytes):
                    data = said
                elif isinstance(said, dict):
                    data = json.dumps(said).encode()
                else:
                    status, headers = said if isinstance(said, tuple) else (said, {})
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # the client is gone

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True
            block_on_close = False

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))

    def asked(self) -> Counter:
        """Return how often each question was asked."""
        return Counter(body["messages"][-1]["content"] for body in self.requests)

    def close(self):
        """Stop at once."""
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.close()
        self.thread.join()

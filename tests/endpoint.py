"""An OpenAI-compatible endpoint of our own, in a thread of the tests: what it answers is a subclass's."""

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Endpoint(BaseHTTPRequestHandler, ABC):
    model, finish_reason = "served", "stop"

    @abstractmethod
    def answer(self, body: dict) -> str:
        """The text of the assistant's message for the body of a request."""

    def do_GET(self) -> None:
        self._send({"object": "list", "data": [{"id": self.model, "object": "model", "created": 0, "owned_by": "us"}]})

    def do_POST(self) -> None:
        message = {
            "role": "assistant",
            "content": self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"])))),
        }
        choice = {"index": 0, "finish_reason": self.finish_reason, "message": message}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        about = {"id": "1", "object": "chat.completion", "created": 0, "model": self.model}
        self._send(about | {"choices": [choice], "usage": usage})

    def _send(self, content: dict) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a real server whose requests a handler answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()

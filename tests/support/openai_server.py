"""A real HTTP server on this machine that speaks as much of the OpenAI protocol as Intray uses.

    with OpenAIServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)    # and OPENAI_API_KEY to anything
        server.will(answer({"summary": ...}), status(429, {"Retry-After": "7"}), hang(5))
        ...
        assert server.requests[0]["model"] == "gpt-5-mini"

Replies are given in turn and the last one again and again; without any, it answers `ANALYSIS`. A reply may be a function of
the request's body.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANALYSIS: dict[str, Any] = {
    "summary": "A key-value store that keeps its data in memory.",
    "strengths": ["It answers in under a millisecond."],
    "limitations": ["The data must fit into memory."],
    "use_cases": ["Caches and session stores."],
    "maturity_score": 0.9,
}


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0


USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


def answer(content: Any, *, finish_reason: str = "stop", refusal: str | None = None, usage: Any = USAGE, **more: Any) -> Reply:
    """A chat completion whose content is this object as JSON, or this text; `more` stands beside the content."""
    text = content if isinstance(content, str) or content is None else json.dumps(content)
    message = {"role": "assistant", "content": text, "refusal": refusal, **more}
    completion = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gpt-5-mini",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": None}],
        "usage": usage,
    }
    return Reply(200, json.dumps(completion).encode())


def status(code: int, headers: dict[str, str] | None = None, *, message: str = "no", error_code: str | None = None) -> Reply:
    """A refusal in OpenAI's shape."""
    return Reply(code, json.dumps({"error": {"message": message, "type": "error", "code": error_code}}).encode(), headers or {})


def hang(seconds: float) -> Reply:
    """Nothing for so many seconds, or until the server stops; then a good answer."""
    return Reply(200, answer(ANALYSIS).body, wait_s=seconds)


class OpenAIServer:
    """`url` is what OPENAI_BASE_URL has to be; `requests` holds the bodies that came, `headers` theirs, by names in lower case."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.stopping = threading.Event()
        self._replies: list[Reply | Callable[[dict[str, Any]], Reply]] = [answer(ANALYSIS)]
        server = self

        class Chat(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server._reply(self, body)

            def log_message(self, *_: Any) -> None:
                """Tests read `requests` instead."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def will(self, *replies: Reply | Callable[[dict[str, Any]], Reply]) -> None:
        """Say what the next answers are."""
        self._replies = list(replies)

    def _reply(self, connection: BaseHTTPRequestHandler, body: bytes) -> None:
        if not connection.path.endswith("/chat/completions"):
            connection.send_error(404)
            return
        self.requests.append(json.loads(body))
        self.headers.append({name.lower(): value for name, value in connection.headers.items()})
        given = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        reply = given if isinstance(given, Reply) else given(self.requests[-1])
        self.stopping.wait(reply.wait_s)
        try:
            connection.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(reply.body)), **reply.headers}.items():
                connection.send_header(name, value)
            connection.end_headers()
            connection.wfile.write(reply.body)
        except ConnectionError:
            return  # the client did not wait

    def __enter__(self) -> OpenAIServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

"""A web site on this machine, of fixed answers by path; it counts the requests and keeps their headers.

with Site() as site:
    site.answers["/page"] = (200, HTML, b"<p>Hello.</p>")
    site.page("/other", "<h1>Other</h1>", title="Other")
    ...
    assert site.paths == ["/robots.txt", "/page"]
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = b"<html><head><title>A page</title></head><body><p>Hello.</p></body></html>"
HTML = {"Content-Type": "text/html"}
Answer = tuple[int, dict[str, str], bytes]


class Site:
    """What is not among `answers` is 404. `asked` has the headers of each request, `paths` what was asked for."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {"/": (200, HTML, PAGE)}
        self.asked: list[dict[str, str]] = []
        self.paths: list[str] = []
        site = self

        class Pages(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(dict(self.headers))
                site.paths.append(self.path)
                code, headers, body = site.answers.get(self.path, (404, HTML, b"none"))
                self.send_response(code)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(body)
                except ConnectionError:
                    return

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self._thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})

    def page(self, path: str, body: str, *, title: str | None = None) -> None:
        """Answer with a page of this body."""
        head = f"<head><title>{title}</title></head>" if title else ""
        self.answers[path] = (200, HTML, f"<html>{head}<body><main>{body}</main></body></html>".encode())

    def __enter__(self) -> Site:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self._thread.join()
        self.http.server_close()

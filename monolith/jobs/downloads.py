"""Bytes that people handed in or jobs made, sent so that no browser runs them in our name."""

from __future__ import annotations

from flask import Response

SANDBOX = "sandbox; default-src 'none'"


def download(content: bytes | str, media_type: str, filename: str) -> Response:
    """An answer that is saved, never shown: whatever it holds, it does not act as a page of ours."""
    return saved(Response(content, content_type=media_type), filename)


def saved(response: Response, filename: str) -> Response:
    """The same of an answer that is there."""
    response.headers.set("Content-Disposition", "attachment", filename=filename)
    response.headers["Content-Security-Policy"] = SANDBOX
    return response

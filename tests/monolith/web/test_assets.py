"""Static files and the size of pages, as a browser asks for them."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable

import pytest
from flask import Flask

from monolith.web import assets
from tests.support.callers import Caller

PACKED = {"Accept-Encoding": "gzip, br"}


def files(page: str) -> list[str]:
    """What the page loads."""
    return re.findall(r'(?:href|src)="(/static/[^"]+)"', page)


def test_every_file_of_a_page_has_a_name_with_its_hash_and_is_kept_for_a_year(app: Flask) -> None:
    client = app.test_client()
    found = files(client.get("/sign-in").text)
    assert len(found) >= 3
    for path in found:
        answer = client.get(path, headers=PACKED)
        assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "public, max-age=31536000, immutable"), path
        assert re.search(r"\.[0-9a-f]{10}\.\w+$", path) and answer.headers["Vary"] == "Accept-Encoding"
        again = client.get(path, headers={**PACKED, "If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")


def test_a_file_is_packed_for_who_can_unpack_it(app: Flask) -> None:
    client = app.test_client()
    packed, plain = client.get("/static/intray.css", headers=PACKED), client.get("/static/intray.css")
    assert packed.headers["Content-Encoding"] == "gzip" and "Content-Encoding" not in plain.headers
    assert gzip.decompress(packed.data) == plain.data == (assets.FOLDER / "intray.css").read_bytes()
    assert packed.headers["ETag"] != plain.headers["ETag"]


@pytest.mark.parametrize("name", ["intray.css", "intray.0123456789.css"])
def test_a_name_without_the_hash_of_today_is_asked_for_each_time(app: Flask, name: str) -> None:
    answer = app.test_client().get(f"/static/{name}")
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "public, no-cache")


@pytest.mark.parametrize("name", ["nothing.css", "../assets.py", "%2e%2e/assets.py", "..%2fassets.py", ".", "intray.css/", "a/b.css"])
def test_nothing_else_is_sent(app: Flask, name: str) -> None:
    assert app.test_client().get(f"/static/{name}").status_code == 404


def test_all_that_a_page_needs_is_under_100_kb(alice: Caller) -> None:
    for number in range(30):
        given = {"text": f"Text {number}", "title": f"A long title {number} " * 12, "tags": ["one", "two", "three"], "jobs": ["analyze"]}
        alice.post("/api/v1/documents", json=given)
    for path in (
        "/",
        "/documents",
        "/documents?q=long",
        "/jobs",
        "/jobs?status=queued",
        "/api/docs",
        "/api/openapi.json",
        "/webhooks",
        "/account",
    ):
        page = alice.get(path, headers=PACKED)
        text = gzip.decompress(page.data).decode() if page.headers.get("Content-Encoding") else page.text
        loaded = {one: len(alice.get(one, headers=PACKED).data) for one in set(files(text))}
        assert page.status_code == 200 and len(page.data) + sum(loaded.values()) < 100_000, (path, len(page.data), loaded)


def test_a_page_whose_address_has_a_query_is_not_packed(alice: Caller, caller: Callable[..., Caller]) -> None:
    assert alice.get("/documents", headers=PACKED).headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in alice.get("/documents?q=secret", headers=PACKED).headers
    assert "Content-Encoding" not in alice.get("/documents").headers

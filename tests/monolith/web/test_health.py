"""Whether the process lives, and what is missing until it can work."""

from __future__ import annotations

from flask import Flask


def test_health_answers_while_ready_names_what_is_missing(app: Flask) -> None:
    client = app.test_client()
    assert client.get("/health").json["status"] == "ok"
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert answer.json == {"ready": False, "checks": {"database": True, "redis": True, "clock": False}}

"""The headers of every answer, generated from the URL map: a strict CSP, and what strangers wrote is saved, never shown."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask
from sqlalchemy import update
from werkzeug.test import TestResponse

from monolith.db.engine import write_session
from monolith.db.models import Document
from monolith.runner.ledger import lifecycle
from monolith.runner.ledger.outcomes import Outcome
from monolith.web.responses import SANDBOX
from monolith.web.security import CONTENT_SECURITY_POLICY
from tests.support.callers import Caller
from tests.support.routes import SAFE, World, path_of, routes

RELAXED = "/admin/rq/"
OURS = ("text/html", "application/json", "application/problem+json", "text/event-stream")  # what our templates and views write
OURS_AT = ("/static/", "/metrics")
SCRIPT = "<script>alert(1)</script>"
SVG = f'<svg xmlns="http://www.w3.org/2000/svg">{SCRIPT}</svg>'
ACTIVE = {"page.html": ("text/html", SCRIPT), "picture.svg": ("image/svg+xml", SVG), "page.xhtml": ("application/xhtml+xml", SVG)}
ACTIVE |= {"feed.xml": ("text/xml", SVG), "note.md": ("text/markdown", SCRIPT), "data.json": ("application/json", f'"{SCRIPT}"')}


def is_saved(answer: TestResponse) -> bool:
    headers = answer.headers
    return headers.get("Content-Disposition", "").startswith("attachment") and headers["Content-Security-Policy"] == SANDBOX


def wrong_with(path: str, answer: TestResponse) -> str | None:
    if answer.headers.get("X-Content-Type-Options") != "nosniff":
        return "no nosniff"
    policy = answer.headers.get("Content-Security-Policy", "")
    if path.startswith(RELAXED) or is_saved(answer):
        return None
    if policy != CONTENT_SECURITY_POLICY or "unsafe" in policy:
        return f"its policy is {policy!r}"
    is_ours = answer.mimetype in OURS or path.startswith(OURS_AT)
    return None if is_ours or answer.status_code >= 300 else f"{answer.mimetype} is shown"


def test_every_answer_has_a_strict_policy_or_is_saved(
    app: Flask, caller: Callable[..., Caller], intray_settings: Callable[..., None]
) -> None:
    intray_settings(FETCH_ALLOW_LOOPBACK="true")
    owner, admin = caller("alice@example.org"), caller("admin@example.org", is_admin=True)
    ids, wrong, shown, saved = World(owner).ids(), [], 0, set()
    for rule, method in routes(app):
        path = path_of(app, rule, method, ids)
        askers = (None, owner, admin) if method in SAFE else (None,)  # others may do what is asked
        for who in askers:
            headers = {"Authorization": f"Bearer {who.token}"} if who else {}
            answer = app.test_client().open(path, method=method, headers=headers)
            if reason := wrong_with(path, answer):
                wrong.append(f"{method} {path}: {answer.status_code}, {reason}")
            shown += answer.status_code == 200
            if is_saved(answer):
                saved.add(rule.endpoint)
            answer.close()
    assert not wrong, "\n".join(wrong)
    assert shown > 100
    assert saved >= {"documents.DocumentContent", "jobs.JobArtefact", "jobs.JobResult", "job_pages.result"}


@pytest.mark.parametrize("filename", sorted(ACTIVE))
def test_a_document_of_whatever_type_is_saved(app: Flask, alice: Caller, filename: str) -> None:
    media_type, content = ACTIVE[filename]
    document = alice.post("/api/v1/documents", json={"text": "words", "title": filename}).json["document"]
    stored = update(Document).where(Document.id == document["id"])  # some of these types are refused today
    with write_session() as session:
        session.execute(stored.values(media_type=media_type, content=content.encode(), filename=filename))
    with alice.get(f"/api/v1/documents/{document['id']}/content") as answer:
        assert answer.status_code == 200 and answer.text == content
        assert is_saved(answer) and answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("filename", sorted(ACTIVE))
def test_a_file_that_a_job_made_is_saved_alone_and_in_a_zip(app: Flask, alice: Caller, filename: str) -> None:
    media_type, content = ACTIVE[filename]
    job = alice.post("/api/v1/jobs", json={"type": "trial_echo"}).json["id"]
    claim = lifecycle.claim(job, "nobody")
    assert claim and lifecycle.succeed(claim, Outcome({"value": SCRIPT}, [(filename, media_type, content.encode())]))
    paths = [f"/api/v1/jobs/{job}/artifacts/{filename}", f"/api/v1/jobs/{job}/result", f"/api/v1/jobs/{job}/result?format=md"]
    answers = [alice.get(path) for path in (*paths, f"/jobs/{job}/result.json", f"/jobs/{job}/result.md")]
    answers.append(alice.post("/jobs/selected", data={"act": "download", "id": job}))
    for answer in answers:
        assert answer.status_code == 200 and is_saved(answer), answer.headers
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        answer.close()

"""Every route of the application, and something of Alice's for each of them to lead to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flask import Flask
from werkzeug.routing import Rule

from monolith.accounts import sessions
from monolith.db.engine import write_session
from monolith.runner.ledger import lifecycle
from monolith.runner.ledger.outcomes import Outcome
from monolith.runner.webhooks.models import Delivery
from tests.support.callers import Caller

HERS = "Zanzibar"
SAFE = ("GET", "HEAD", "OPTIONS")
NAMES = {"filename": "intray.css", "scope": "all", "cause": "0123456789abcdef", "cleaning_id": "1", "requeue_id": "1", "schedule_id": "1"}
NAMES |= {"instance_number": "0", "queue_name": "default.normal", "registry_name": "queued", "per_page": "5", "order": "asc", "page": "1"}
OF_ROUTES = {
    "job-types.OneJobType": "trial_echo",
    "job_type_pages.form": "trial_echo",
    "job_type_pages.run": "trial_echo",
    "jobs.JobArtefact": "echo.txt",
}


def routes(app: Flask) -> Iterator[tuple[Rule, str]]:
    for rule in app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield rule, method


@dataclass
class World:
    """What Alice has, made anew where a route may have ended it."""

    alice: Caller

    def ids(self) -> dict[str, str]:
        made = self.alice.post("/api/v1/documents", json={"text": f"{HERS}.", "title": HERS}).json["document"]
        job = self.alice.post("/api/v1/jobs", json={"type": "trial_echo"}).json["id"]
        claim = lifecycle.claim(job, "nobody")
        assert claim and lifecycle.succeed(claim, Outcome({"value": 1}, [("echo.txt", "text/plain", HERS.encode())]))
        batch = self.alice.post("/api/v1/batches", json={"documents": [{"text": f"{HERS}."}], "jobs": ["analyze"]}).json["id"]
        token = self.alice.post("/api/v1/tokens", json={"name": HERS}).json["id"]
        sessions.begin(self.alice.user.id, "127.0.0.1", HERS)
        webhook = self.alice.post("/api/v1/webhooks", json={"url": "http://127.0.0.1:9/"}).json["id"]
        with write_session() as session:
            delivery = Delivery(webhook_id=webhook, type="webhook.test", body="{}")
            session.add(delivery)
        return {
            "document_id": made["id"],
            "job_id": job,
            "batch_id": batch,
            "token_id": token,
            "session_id": sessions.sessions_of(self.alice.user)[0].id,
            "webhook_id": webhook,
            "delivery_id": delivery.id,
        }

    def renewed(self, ids: dict[str, str]) -> dict[str, str]:
        """The same again: the route may have ended any of it."""
        self.alice.delete(f"/api/v1/webhooks/{ids['webhook_id']}")  # there may be ten
        return self.ids()


def path_of(app: Flask, rule: Rule, method: str, ids: dict[str, str]) -> str:
    values: dict[str, Any] = {}
    for name in rule.arguments - set(rule.defaults or ()):
        choices = getattr(rule._converters[name], "items", None)
        values[name] = next(iter(choices)) if choices else ids.get(name) or NAMES.get(name) or OF_ROUTES.get(rule.endpoint, "1")
    return app.url_map.bind("localhost").build(rule.endpoint, values, method=method)

"""rq-dashboard under `/admin/rq/`, with what it lacks: access control, CSRF, our connection and serializer, escaping, audit log.

It is unchanged but for two templates (`templates/rq_dashboard/`). Its actions change Redis but not the ledger: the clock pushes
a deleted message again, and a duplicate message is ignored.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask, Response, current_app, g, request
from redis import Redis, RedisError
from rq import Worker, requeue_job
from rq.exceptions import DeserializationError, InvalidJobOperation, NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer
from rq_dashboard import web
from werkzeug.wrappers import Response as AnyResponse

from monolith.db.engine import write_session
from monolith.errors import Conflict, NotFound, Unavailable
from monolith.runner.ledger import audit
from monolith.runner.queue import rq_queues
from monolith.web import problems
from monolith.web.public_address import check_same_site
from monolith.web.security import SAFE, actor, bearer, require_admin

NAME = "rq_dashboard"
PREFIX = "/admin/rq"
STATIC = (f"{NAME}.static", f"{NAME}.favicon")  # work without Redis
MAX_MESSAGES = 5000  # that one click may delete or requeue, because this happens within the request
REGISTRIES = ("queued", "scheduled", "deferred", "started", "finished", "failed", "canceled")
# rq-dashboard copies parts of the URL into scripts, partly unescaped, so each part must match its pattern.
PATTERNS = {
    "queue_name": r"[\w.:-]{1,120}",
    "job_id": r"[\w-]{1,120}",
    "registry_name": "|".join(REGISTRIES),
    "order": "asc|dsc",
    "page": r"[1-9]\d{0,6}",
    "per_page": r"[1-9]\d{0,2}",
    "instance_number": "0",
}


def init_app(app: Flask) -> None:
    """Mount rq-dashboard behind the guard."""
    web.from_url = _connect
    web.config.serializer = Json
    web.Job, web.Worker = JsonJob, JsonWorker
    web.requeue_job = partial(requeue_job, serializer=Json)
    app.config["RQ_DASHBOARD_REDIS_URL"] = ("Redis of Intray",)
    web.setup_rq_connection(app)
    app.before_request(_guard)
    app.after_request(_relax)
    for error, make_problem in ERRORS.items():
        app.register_error_handler(error, partial(_answer, make_problem))
    app.register_blueprint(web.blueprint, url_prefix=PREFIX)
    for rule in app.url_map.iter_rules(f"{NAME}.requeue_all"):
        rule.methods = {"POST"}  # rq-dashboard also accepts GET, which must not change anything


def _connect(url: str, **options: Any) -> tuple[str, Redis]:
    """Replaces the function that opens a new connection for each request."""
    return "", rq_queues.connection()


class Json(JSONSerializer):
    """A JSON serializer that reports invalid data, which Intray has not written, as `DeserializationError`."""

    @staticmethod
    def loads(s: bytes, *args: Any, **kwargs: Any) -> Any:
        try:
            return JSONSerializer.loads(s, *args, **kwargs)
        except ValueError as error:
            raise DeserializationError from error


class JsonJob(Job):
    """A job that is always read as JSON. rq-dashboard uses pickle in places; then anyone who can write to Redis could run code."""

    @classmethod
    def fetch(cls, id: str, connection: Redis | None = None, serializer: Any = None) -> Job:
        return super().fetch(id, connection=connection, serializer=Json)

    @property
    def dependency_ids(self) -> Any:
        """The ids as bytes, as older versions of RQ gave them and rq-dashboard expects them."""
        return [one.encode() for one in super().dependency_ids]


class JsonWorker(Worker):
    """A worker whose jobs are read as JSON."""

    @classmethod
    def all(cls, connection: Redis | None = None, *_: Any, **__: Any) -> list[Any]:
        return Worker.all(connection=connection, job_class=JsonJob, serializer=Json)


# ---- the guard


def _guard() -> None:
    if request.blueprint != NAME:
        return
    require_admin()
    _check_address()
    if request.method not in SAFE:
        _check_origin()
    if rq_queues.is_inline():
        raise NotFound(
            "QUEUE_MODE=inline runs jobs in the web process, so RQ has no queues to show. See the other admin pages for all jobs."
        )
    if request.endpoint not in STATIC and not rq_queues.is_reachable():
        raise Unavailable(REDIS_AWAY, retry_after=5)
    current_app.redis_conn = rq_queues.connection()  # type: ignore[attr-defined]
    if request.method not in SAFE:
        _record()


def _check_address() -> None:
    for name, value in (request.view_args or {}).items():
        if name in PATTERNS and value is not None and not re.fullmatch(PATTERNS[name], str(value), re.ASCII):
            raise NotFound(f"The address contains an invalid {name.replace('_', ' ')}. Start again from {PREFIX}/.")


def _check_origin() -> None:
    """Check the origin of browsers' requests, in addition to the CSRF token. Requests with an API token come from programs."""
    if bearer() is None:
        check_same_site(needs_origin=True)


def _record() -> None:
    """Record the action in the audit log before it happens. Raises `Conflict` if it affects too many messages."""
    target = request.view_args or {}
    count = _count(target)
    if count > MAX_MESSAGES:
        raise Conflict(f"This would change {count:,} messages; the limit here is {MAX_MESSAGES:,}. Use the other admin pages for more.")
    subject = f"job {target['job_id']}" if "job_id" in target else "queue " + " ".join(target[name] for name in sorted(target))
    act = str(request.endpoint).rpartition(".")[2].removesuffix("_view")
    with write_session() as session:
        audit.record(session, actor(), f"rq_{act}"[:40], subject, count=count)


def _count(target: dict[str, Any]) -> int:
    """The number of messages that the action affects."""
    if "job_id" in target:
        return 1
    queue = rq_queues.queue(target["queue_name"])
    registry = "failed" if str(request.endpoint).endswith("requeue_all") else target.get("registry_name", "queued")
    if registry == "queued":
        return int(queue.count)
    found: Any = getattr(queue, f"{registry}_job_registry")
    return int(found.get_job_count(cleanup=False))


# ---- answers

REDIS_AWAY = "Redis is not responding, so there is nothing to show. See the other admin pages for all jobs."
ERRORS: dict[type[Exception], Callable[[], Exception]] = {
    NoSuchJobError: lambda: NotFound("RQ no longer has this message. Search for the job on the Jobs page."),
    DeserializationError: lambda: Conflict(
        "This job's data in Redis is not JSON, so Intray did not write it and cannot show it. Delete it."
    ),
    InvalidJobOperation: lambda: Conflict("RQ does not list this message as failed. Retry the job on its own page."),
    RedisError: lambda: Unavailable(REDIS_AWAY, retry_after=5),
}


def _answer(make_problem: Callable[[], Any], error: Exception) -> AnyResponse:
    return problems.answer(make_problem())


def script_nonce() -> str:
    """The CSP nonce of this request for the page's own script; for templates."""
    if "script_nonce" not in g:
        g.script_nonce = secrets.token_urlsafe(16)
    nonce: str = g.script_nonce
    return nonce


def _relax(response: Response) -> Response:
    """Relax the CSP for rq-dashboard, whose templates need `eval` and inline styles. Scripts in data still do not run."""
    if request.blueprint == NAME and "script_nonce" in g:
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; script-src 'self' 'nonce-{script_nonce()}' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
            "img-src 'self' data:; connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
        )
    return response


web.blueprint.context_processor(lambda: {"script_nonce": script_nonce})

"""Health and readiness checks for load balancers and deploys."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify
from sqlalchemy.exc import SQLAlchemyError

from monolith.config import version
from monolith.db import engine
from monolith.runner.ledger import clock_lease
from monolith.runner.queue import rq_queues

blueprint = Blueprint("health", __name__)


@blueprint.get("/health")
def health() -> Response:
    """200 while the process responds, with the version."""
    return jsonify(status="ok", version=version())


@blueprint.get("/ready")
def ready() -> tuple[Response, int]:
    """200 if the database, Redis and the clock are available; else 503 with each check."""
    checks = {"database": _database(), "redis": rq_queues.is_reachable(), "clock": _clock()}
    is_ready = all(checks.values())
    return jsonify(ready=is_ready, checks=checks), 200 if is_ready else 503


def _database() -> bool:
    try:
        return engine.is_current() and engine.is_writable()
    except SQLAlchemyError:
        return False


def _clock() -> bool:
    try:
        with engine.read_session() as session:
            return clock_lease.is_ticking(session)
    except SQLAlchemyError:
        return False

"""Is this process alive, and can it do its work? For load balancers, deploys and people."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify
from sqlalchemy.exc import SQLAlchemyError

from monolith import database
from monolith.runner import clock, queues

blueprint = Blueprint("health", __name__)


@blueprint.get("/health")
def health() -> Response:
    """The process answers."""
    return jsonify(status="ok")


@blueprint.get("/ready")
def ready() -> tuple[Response, int]:
    """Whether database, Redis and clock are there: 200, or 503 naming what is not."""
    checks = {"database": _database(), "redis": queues.is_reachable(), "clock": _clock()}
    is_ready = all(checks.values())
    return jsonify(ready=is_ready, checks=checks), 200 if is_ready else 503


def _database() -> bool:
    try:
        return database.is_current()
    except SQLAlchemyError:
        return False


def _clock() -> bool:
    try:
        with database.reading() as session:
            return clock.is_ticking(session)
    except SQLAlchemyError:
        return False

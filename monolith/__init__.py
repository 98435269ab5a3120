"""Intray: a document job runner in one Flask application."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask


def create_app() -> Flask:
    """The application: settings, job types, blueprints; nothing else."""
    from flask import Flask

    from monolith import problems, security
    from monolith.config import settings
    from monolith.runner import registry

    app = Flask(__name__, template_folder="../templates")
    app.config.update(
        SECRET_KEY=settings().secret_key,
        MAX_CONTENT_LENGTH=settings().max_request_bytes,
        MAX_FORM_MEMORY_SIZE=2 * settings().max_upload_bytes,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        WTF_CSRF_TIME_LIMIT=None,
        WTF_CSRF_SSL_STRICT=False,
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]
    security.trust_proxies(app, settings().trusted_proxies)
    registry.discover()
    security.init_app(app)
    problems.register(app)
    _register_blueprints(app)
    return app


def _register_blueprints(app: Flask) -> None:
    from monolith import health, metrics
    from monolith.auth import api as auth_api
    from monolith.auth import pages as auth_pages
    from monolith.jobs import api as jobs_api
    from monolith.jobs import batch_pages, batches, run_pages, webhook_pages, webhooks
    from monolith.jobs import pages as jobs_pages
    from monolith.openapi import make_api
    from monolith.queue_admin import ai
    from monolith.queue_admin import pages as admin_pages

    pages = (auth_pages, jobs_pages, run_pages, batch_pages, webhook_pages, admin_pages)
    for blueprint in (health.blueprint, metrics.blueprint, *(one.blueprint for one in pages)):
        app.register_blueprint(blueprint)
    api = make_api(app)
    ours = (jobs_api.documents, jobs_api.jobs, batches.blueprint, jobs_api.job_types, webhooks.blueprint, auth_api.blueprint, ai.blueprint)
    for blueprint in ours:
        api.register_blueprint(blueprint, url_prefix="/api/v1" + (blueprint.url_prefix or ""))

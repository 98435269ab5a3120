"""Intray: a document job runner in one Flask application."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from monolith import aliases

if TYPE_CHECKING:
    from flask import Flask

aliases.install()


def create_app() -> Flask:
    """The application: settings, job types, blueprints; nothing else."""
    from flask import Flask

    from monolith.config import settings
    from monolith.job_types import registry
    from monolith.web import assets, problems, security

    app = Flask(__name__, template_folder="../templates", static_folder=None)
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
    assets.init_app(app)
    _register_blueprints(app)
    return app


PAGES = (
    "monolith.web.health",
    "monolith.web.metrics",
    "monolith.auth.pages",
    "monolith.auth.account_pages",
    "monolith.jobs.pages",
    "monolith.jobs.result_download",
    "monolith.jobs.bulk_pages",
    "monolith.jobs.run_pages",
    "monolith.jobs.batch_pages",
    "monolith.jobs.webhook_pages",
    "monolith.queue_admin.overview_pages",
    "monolith.queue_admin.pauses_pages",
    "monolith.queue_admin.schedules_pages",
    "monolith.queue_admin.audit_pages",
    "monolith.queue_admin.alerts_pages",
    "monolith.queue_admin.jobs_pages",
    "monolith.queue_admin.failures_pages",
    "monolith.queue_admin.trash_pages",
)
API = (  # in the order in which the document shows them
    "monolith.jobs.api:documents",
    "monolith.jobs.api:jobs",
    "monolith.jobs.events_api",
    "monolith.jobs.batches_api",
    "monolith.jobs.bulk_api",
    "monolith.jobs.api:job_types",
    "monolith.jobs.webhooks_api",
    "monolith.auth.api",
    "monolith.queue_admin.queues_api",
    "monolith.queue_admin.pauses_api",
    "monolith.queue_admin.schedules_api",
    "monolith.queue_admin.audit_api",
    "monolith.queue_admin.alerts_api",
    "monolith.queue_admin.trash_api",
    "monolith.queue_admin.failures_api",
    "monolith.queue_admin.llm_api",
)


def _register_blueprints(app: Flask) -> None:
    from monolith.queue_admin import rq_pages
    from monolith.web.openapi import make_api

    for name in PAGES:
        app.register_blueprint(_blueprint(name))
    rq_pages.init_app(app)
    api = make_api(app)
    for name in API:
        blueprint = _blueprint(name)
        api.register_blueprint(blueprint, url_prefix="/api/v1" + (blueprint.url_prefix or ""))


def _blueprint(name: str) -> Any:
    """The blueprint of this module: `module`, or `module:variable` where it has several."""
    module, _, variable = name.partition(":")
    return getattr(import_module(module), variable or "blueprint")

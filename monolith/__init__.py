"""Intray, a document job runner in one Flask application: create_app(), and the former names that still work.
Called by manage.py, gunicorn and the tests.
Imports the blueprints only within create_app(), so that the folders below can be imported without Flask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monolith import aliases

if TYPE_CHECKING:
    from flask import Flask

aliases.install()


def create_app() -> Flask:
    """The Flask application, with its settings, job types and blueprints. Raises `BadSetting`."""
    from monolith.config import settings
    from monolith.content import formatting
    from monolith.job_types import registry
    from monolith.web import assets, problems, public_address, security
    from monolith.web.application import Application

    app = Application(__name__, template_folder="../templates", static_folder=None)
    app.config.update(
        SECRET_KEY=settings().secret_key,
        MAX_CONTENT_LENGTH=settings().max_request_bytes,
        MAX_FORM_MEMORY_SIZE=2 * settings().max_upload_bytes,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        WTF_CSRF_TIME_LIMIT=None,
        WTF_CSRF_SSL_STRICT=False,
    )
    public_address.init_app(app)
    registry.log_broken()
    security.init_app(app)
    problems.register(app)
    assets.init_app(app)
    for template_filter in formatting.FILTERS:
        app.add_template_filter(template_filter)
    _register_blueprints(app)
    return app


def _register_blueprints(app: Flask) -> None:
    from monolith.auth import account_api, account_pages, sign_in_pages
    from monolith.jobs import (
        batch_pages,
        batches_api,
        bulk_api,
        bulk_pages,
        document_pages,
        documents_api,
        events_api,
        job_pages,
        job_type_pages,
        job_types_api,
        jobs_api,
        webhook_pages,
        webhooks_api,
    )
    from monolith.queue_admin import (
        alerts_api,
        alerts_pages,
        audit_api,
        audit_pages,
        failures_api,
        failures_pages,
        jobs_pages,
        llm_api,
        overview_pages,
        pauses_api,
        pauses_pages,
        queues_api,
        rq_pages,
        schedules_api,
        schedules_pages,
        trash_api,
        trash_pages,
    )
    from monolith.web import health, metrics
    from monolith.web.openapi import make_api

    for pages in (
        *(health, metrics, sign_in_pages, account_pages),
        *(document_pages, job_pages, bulk_pages, job_type_pages, batch_pages, webhook_pages),
        *(overview_pages, pauses_pages, schedules_pages, audit_pages, alerts_pages, jobs_pages, failures_pages, trash_pages),
    ):
        app.register_blueprint(pages.blueprint)
    rq_pages.init_app(app)
    api = make_api(app)
    for module in (  # in the order of the API document
        *(documents_api, jobs_api, events_api, batches_api, bulk_api, job_types_api, webhooks_api, account_api),
        *(queues_api, pauses_api, schedules_api, audit_api, alerts_api, trash_api, failures_api, llm_api),
    ):
        api.register_blueprint(module.blueprint, url_prefix="/api/v1" + (module.blueprint.url_prefix or ""))

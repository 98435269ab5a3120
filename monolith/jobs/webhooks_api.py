"""Outgoing webhooks as JSON: endpoints, their secrets and their deliveries."""

from __future__ import annotations

from typing import Any

from flask import Response, url_for
from flask.views import MethodView
from flask_login import current_user
from flask_smorest import Blueprint
from marshmallow import Schema, fields
from marshmallow.validate import OneOf, Range

from monolith.db.engine import read_session
from monolith.documents import queries
from monolith.runner.webhooks import endpoints
from monolith.runner.webhooks.models import ENDINGS, EVENTS, STATES, Delivery, Webhook
from monolith.web import schemas
from monolith.web.openapi import ProblemSchema
from monolith.web.responses import listed
from monolith.web.schemas import Truth

MAX_HOURS = 7 * 24
blueprint = Blueprint("webhooks", __name__, url_prefix="/webhooks", description="Endpoints that get an HTTP request when your jobs change")
NOT_YOURS = {"schema": ProblemSchema, "description": "Not found, or not yours"}
NOT_NOW = {"schema": ProblemSchema, "description": "The webhook is disabled, or the delivery is being sent"}


class Event(fields.String):
    def __init__(self) -> None:
        super().__init__(validate=OneOf(EVENTS))


class WebhookRequest(Schema):
    url = fields.String(required=True, metadata={"description": "The endpoint; http:// or https://, on a public address"})
    events = fields.List(
        Event(), load_default=list(ENDINGS.values()), metadata={"description": "Events to send; the final status of jobs if left out"}
    )


class WebhookChange(Schema):
    url = fields.String()
    events = fields.List(Event())
    enabled = Truth(metadata={"description": "When enabled again, it gets events from then on"})


class WebhooksQuery(schemas.PageQuery):
    job_id = fields.String(metadata={"description": "List the `webhook_url` of this single job instead"})


class RotateRequest(Schema):
    overlap_hours = fields.Float(
        validate=Range(0, MAX_HOURS), metadata={"description": "How long the old secret also signs; WEBHOOK_OVERLAP_HOURS if left out"}
    )


class WebhookSchema(Schema):
    """An endpoint. The secret is present only in the response that creates or rotates it."""

    object = fields.Constant("webhook")
    id = fields.String()
    url = fields.String()
    events = fields.List(Event())
    enabled = Truth()
    disabled_reason = fields.String(allow_none=True)
    failing_since = schemas.Moment(allow_none=True, metadata={"description": "When the current series of failures began"})
    created_at = schemas.Moment()
    secret = fields.String(metadata={"description": "`whsec_...`, shown once"})
    previous_secret_until = schemas.Moment(allow_none=True)
    links = fields.Dict(keys=fields.String(), values=fields.String())


class SecretSchema(Schema):
    secret = fields.String(metadata={"description": "`whsec_...`, shown once"})
    previous_secret_until = schemas.Moment(allow_none=True, metadata={"description": "When the previous secret stops signing"})


class DeliverySchema(Schema):
    """One event sent to one endpoint. `id` is the `webhook-id` header, the same on every attempt."""

    object = fields.Constant("delivery")
    id = fields.String()
    type = fields.String()
    job_id = fields.String(allow_none=True)
    status = fields.String(validate=OneOf(STATES), attribute="state")
    attempts = fields.Integer()
    next_attempt_at = schemas.Moment(allow_none=True, attribute="due_at")
    response_status = fields.Integer(allow_none=True)
    response_text = fields.String(allow_none=True, metadata={"description": "The first kilobyte of the last response"})
    error = fields.String(allow_none=True)
    duration = fields.Float(allow_none=True, metadata={"description": "Duration of the last attempt in seconds"})
    attempted_at = schemas.Moment(allow_none=True)
    created_at = schemas.Moment()
    body = fields.String(metadata={"description": "The request body, byte for byte"})


class WebhookListSchema(schemas.ListSchema):
    data = fields.List(fields.Nested(WebhookSchema))


class DeliveryListSchema(schemas.ListSchema):
    data = fields.List(fields.Nested(DeliverySchema))


def _view(webhook: Webhook, **more: Any) -> dict[str, Any]:
    own = url_for("webhooks.OneWebhook", webhook_id=webhook.id)
    names = ("id", "url", "events", "enabled", "disabled_reason", "failing_since", "created_at")
    return {**{name: getattr(webhook, name) for name in names}, "links": {"self": own, "deliveries": f"{own}/deliveries"}, **more}


def _shown(webhook_id: str, **more: Any) -> dict[str, Any]:
    with read_session() as session:
        return _view(endpoints.find(session, current_user, webhook_id), **more)


@blueprint.route("")
class Webhooks(MethodView):
    @blueprint.arguments(WebhooksQuery(), location="query")
    @blueprint.response(200, WebhookListSchema)
    def get(self, query: dict[str, Any]) -> Response:
        """List your webhooks, newest first."""
        with read_session() as session:
            page = queries.webhooks(session, current_user, **query)
        return listed(page, WebhookSchema(many=True).dump([_view(one) for one in page.rows]))

    @blueprint.arguments(WebhookRequest())
    @blueprint.response(201, WebhookSchema)
    @blueprint.alt_response(409, schema=ProblemSchema, description="You have reached the maximum number")
    @blueprint.alt_response(422, schema=ProblemSchema, description="The URL is not valid, or not public")
    def post(self, given: dict[str, Any]) -> dict[str, Any]:
        """Create a webhook. Its secret is shown only once."""
        webhook, secret = endpoints.create(current_user, **given)
        return _view(webhook, secret=secret)


@blueprint.route("/secret")
class SharedSecret(MethodView):
    @blueprint.arguments(RotateRequest(), required=False)
    @blueprint.response(200, SecretSchema)
    def post(self, given: dict[str, Any]) -> dict[str, Any]:
        """Create a new secret for the `webhook_url` of single jobs. It is shown only once."""
        secret, until = endpoints.rotate_shared(current_user, _overlap_s(given))
        return {"secret": secret, "previous_secret_until": until}


def _overlap_s(given: dict[str, Any]) -> float | None:
    return given["overlap_hours"] * 3600 if "overlap_hours" in given else None


@blueprint.route("/<webhook_id>")
class OneWebhook(MethodView):
    @blueprint.response(200, WebhookSchema)
    @blueprint.alt_response(404, **NOT_YOURS)
    def get(self, webhook_id: str) -> dict[str, Any]:
        """Show a webhook."""
        return _shown(webhook_id)

    @blueprint.arguments(WebhookChange(), required=False)
    @blueprint.response(200, WebhookSchema)
    @blueprint.alt_response(404, **NOT_YOURS)
    def patch(self, given: dict[str, Any], webhook_id: str) -> dict[str, Any]:
        """Change the URL or events of a webhook, disable or enable it."""
        endpoints.change(current_user, webhook_id, **given)
        return _shown(webhook_id)

    @blueprint.response(204)
    @blueprint.alt_response(404, **NOT_YOURS)
    def delete(self, webhook_id: str) -> None:
        """Delete a webhook with its deliveries."""
        endpoints.remove(current_user, webhook_id)


@blueprint.route("/<webhook_id>/rotate")
class RotateSecret(MethodView):
    @blueprint.arguments(RotateRequest(), required=False)
    @blueprint.response(200, WebhookSchema)
    @blueprint.alt_response(404, **NOT_YOURS)
    def post(self, given: dict[str, Any], webhook_id: str) -> dict[str, Any]:
        """Create a new secret, shown only once. The old one also signs for a while."""
        secret, until = endpoints.rotate(current_user, webhook_id, _overlap_s(given))
        return _shown(webhook_id, secret=secret, previous_secret_until=until)


@blueprint.route("/<webhook_id>/test")
class TestWebhook(MethodView):
    @blueprint.response(202, DeliverySchema)
    @blueprint.alt_response(404, **NOT_YOURS)
    @blueprint.alt_response(409, **NOT_NOW)
    def post(self, webhook_id: str) -> Delivery:
        """Send a `webhook.test` event, delivered like any other."""
        return endpoints.test(current_user, webhook_id)


@blueprint.route("/<webhook_id>/deliveries")
class Deliveries(MethodView):
    @blueprint.arguments(schemas.PageQuery(), location="query")
    @blueprint.response(200, DeliveryListSchema)
    @blueprint.alt_response(404, **NOT_YOURS)
    def get(self, query: dict[str, Any], webhook_id: str) -> Response:
        """List the deliveries of a webhook and their outcomes, newest first."""
        with read_session() as session:
            page = queries.deliveries(session, current_user, webhook_id, **query)
        return listed(page, DeliverySchema(many=True).dump(page.rows))


@blueprint.route("/<webhook_id>/deliveries/<delivery_id>/replay")
class ReplayDelivery(MethodView):
    @blueprint.response(202, DeliverySchema)
    @blueprint.alt_response(404, **NOT_YOURS)
    @blueprint.alt_response(409, **NOT_NOW)
    def post(self, webhook_id: str, delivery_id: str) -> Delivery:
        """Send a delivery again now, with the same `webhook-id` and all its attempts."""
        return endpoints.replay(current_user, webhook_id, delivery_id)

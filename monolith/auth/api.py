"""API tokens and who one is, as JSON."""

from __future__ import annotations

from typing import Any

from flask import request
from flask.views import MethodView
from flask_login import current_user
from flask_smorest import Blueprint
from marshmallow import Schema, fields
from marshmallow.validate import Length

from monolith.auth import accounts
from monolith.jobs.schemas import ListSchema, Moment
from monolith.models import Token, User
from monolith.openapi import ProblemSchema

blueprint = Blueprint("account", __name__, description="Who you are, and your tokens")


class UserSchema(Schema):
    object = fields.Constant("user")
    id = fields.Integer()
    email = fields.String()
    is_admin = fields.Boolean()
    is_viewer = fields.Boolean(metadata={"description": "May look at everything, as admins do, and change nothing"})
    created_at = Moment()


class TokenRequest(Schema):
    name = fields.String(required=True, validate=Length(1, 100), metadata={"description": "What uses it"})


class TokenSchema(Schema):
    object = fields.Constant("token")
    id = fields.String()
    name = fields.String()
    prefix = fields.String(metadata={"description": "The first characters, to recognise it by"})
    token = fields.String(metadata={"description": "The token itself, shown once, when it is created"})
    created_at = Moment()
    last_used_at = Moment(allow_none=True)


class TokenListSchema(ListSchema):
    data = fields.List(fields.Nested(TokenSchema))


@blueprint.route("/me")
class Me(MethodView):
    @blueprint.response(200, UserSchema)
    def get(self) -> User:
        """Show who you are."""
        user: User = current_user._get_current_object()
        return user


@blueprint.route("/tokens")
class Tokens(MethodView):
    @blueprint.response(200, TokenListSchema)
    def get(self) -> dict[str, Any]:
        """List your tokens."""
        return {"object": "list", "data": accounts.tokens_of(current_user), "has_more": False, "url": request.path}

    @blueprint.arguments(TokenRequest())
    @blueprint.response(201, TokenSchema)
    def post(self, given: dict[str, Any]) -> dict[str, Any]:
        """Create a token. It is shown this once: only its hash is stored."""
        token, secret = accounts.create_token(current_user.id, given["name"])
        return {**_view(token), "token": secret}


@blueprint.route("/tokens/<token_id>")
class OneToken(MethodView):
    @blueprint.response(204)
    @blueprint.alt_response(404, schema=ProblemSchema, description="Not yours, or not there")
    def delete(self, token_id: str) -> None:
        """Revoke a token. It stops working at once."""
        accounts.revoke_token(current_user, token_id)


def _view(token: Token) -> dict[str, Any]:
    return {name: getattr(token, name) for name in ("id", "name", "prefix", "created_at", "last_used_at")}

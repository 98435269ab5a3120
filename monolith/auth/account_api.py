"""One's own account as JSON: user, password, tokens and sessions."""

from __future__ import annotations

from typing import Any

from flask import g
from flask.views import MethodView
from flask_login import current_user
from flask_smorest import Blueprint
from marshmallow import Schema, fields
from marshmallow.validate import Length, OneOf, Range

from monolith.accounts import sessions, tokens, users
from monolith.accounts.models import UserSession
from monolith.db.models import SCOPES, Token, User
from monolith.web import security
from monolith.web.openapi import ProblemSchema
from monolith.web.public_address import own_path
from monolith.web.schemas import ListSchema, Moment, Truth

MAX_DAYS = 3650
blueprint = Blueprint("account", __name__, description="Your account, tokens and sessions")
NOT_YOURS = {"schema": ProblemSchema, "description": "Not found, or not yours"}


class UserSchema(Schema):
    object = fields.Constant("user")
    id = fields.Integer()
    email = fields.String()
    is_admin = fields.Boolean(metadata={"description": "Whether this request has admin rights; a token with a lower scope has none"})
    is_viewer = fields.Boolean(metadata={"description": "Can see everything that admins see, but change nothing"})
    mail_failed = fields.Boolean(metadata={"description": "Send an e-mail for each job that fails"})
    mail_done = fields.Boolean(metadata={"description": "Send an e-mail for each job that is done"})
    created_at = Moment()


class MeRequest(Schema):
    mail_failed = Truth()
    mail_done = Truth()


class PasswordRequest(Schema):
    current = fields.String(required=True, validate=Length(max=1000))
    new = fields.String(required=True, validate=Length(max=1000), metadata={"description": "12 to 256 characters"})


class TokenRequest(Schema):
    name = fields.String(required=True, validate=Length(1, 100), metadata={"description": "What it is for"})
    scope = fields.String(
        load_default="submit",
        validate=OneOf(SCOPES),
        metadata={"description": "`read` can only read; `submit` can also submit; `admin` has all your rights"},
    )
    days = fields.Float(
        load_default=None, allow_none=True, validate=Range(0, MAX_DAYS), metadata={"description": "Days until it expires; null: never"}
    )


class TokenSchema(Schema):
    object = fields.Constant("token")
    id = fields.String()
    name = fields.String()
    prefix = fields.String(metadata={"description": "Its first characters, to recognise it by"})
    scope = fields.String(validate=OneOf(SCOPES))
    token = fields.String(metadata={"description": "The token itself; shown only once, when it is created"})
    created_at = Moment()
    expires_at = Moment(allow_none=True)
    last_used_at = Moment(allow_none=True)


class TokenListSchema(ListSchema):
    data = fields.List(fields.Nested(TokenSchema))


class SessionSchema(Schema):
    object = fields.Constant("session")
    id = fields.String()
    address = fields.String()
    user_agent = fields.String()
    is_this = fields.Boolean(metadata={"description": "Whether this request uses it"})
    created_at = Moment()
    last_used_at = Moment()


class SessionListSchema(ListSchema):
    data = fields.List(fields.Nested(SessionSchema))


@blueprint.route("/me")
class Me(MethodView):
    @blueprint.response(200, UserSchema)
    def get(self) -> User:
        """Show your account."""
        user: User = current_user._get_current_object()
        return user

    @blueprint.arguments(MeRequest(), required=False)
    @blueprint.response(200, UserSchema)
    def patch(self, given: dict[str, bool]) -> User:
        """Choose which jobs to be e-mailed about."""
        user: User = current_user._get_current_object()
        chosen = {"failed": user.mail_failed, "done": user.mail_done, **{name.removeprefix("mail_"): on for name, on in given.items()}}
        return users.choose_mail(user, **chosen)


@blueprint.route("/me/password")
class Password(MethodView):
    @blueprint.arguments(PasswordRequest())
    @blueprint.response(204)
    @blueprint.alt_response(429, schema=ProblemSchema, description="Too many attempts with a wrong password")
    def put(self, given: dict[str, str]) -> None:
        """Change your password. All your other sessions end; tokens keep working."""
        key = users.change_password(current_user, given["current"], given["new"], *security.browser())
        if "session_id" in g:
            security.sign_in(key)


@blueprint.route("/tokens")
class Tokens(MethodView):
    @blueprint.response(200, TokenListSchema)
    def get(self) -> dict[str, Any]:
        """List your tokens."""
        return {"object": "list", "data": tokens.tokens_of(current_user), "has_more": False, "url": own_path()}

    @blueprint.arguments(TokenRequest())
    @blueprint.response(201, TokenSchema)
    @blueprint.alt_response(409, schema=ProblemSchema, description="You have too many tokens")
    def post(self, given: dict[str, Any]) -> dict[str, Any]:
        """Create a token. It is shown only once: only its hash is stored."""
        token, secret = tokens.create_token(current_user.id, **given)
        return {**_shown(token, TokenSchema), "token": secret}


@blueprint.route("/tokens/<token_id>")
class OneToken(MethodView):
    @blueprint.response(204)
    @blueprint.alt_response(404, **NOT_YOURS)
    def delete(self, token_id: str) -> None:
        """Revoke a token. It stops working immediately."""
        tokens.revoke_token(current_user, token_id)


@blueprint.route("/sessions")
class Sessions(MethodView):
    @blueprint.response(200, SessionListSchema)
    def get(self) -> dict[str, Any]:
        """List your sessions, most recently used first."""
        found = [{**_shown(one, SessionSchema), "is_this": one.id == g.get("session_id")} for one in sessions.sessions_of(current_user)]
        return {"object": "list", "data": found, "has_more": False, "url": own_path()}

    @blueprint.response(204)
    def delete(self) -> None:
        """Sign out everywhere else."""
        sessions.end_others(current_user, g.get("session_id"))


@blueprint.route("/sessions/<session_id>")
class OneSession(MethodView):
    @blueprint.response(204)
    @blueprint.alt_response(404, **NOT_YOURS)
    def delete(self, session_id: str) -> None:
        """End a session immediately."""
        sessions.end(current_user, session_id)


def _shown(row: Token | UserSession, schema: type[Schema]) -> dict[str, Any]:
    """The fields of the schema that the row has."""
    return {name: getattr(row, name) for name in schema().fields if hasattr(row, name)}

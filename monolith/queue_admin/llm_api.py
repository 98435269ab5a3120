"""`POST /api/v1/ai/test`: does the language model work? For admins."""

from __future__ import annotations

from typing import Any

from flask.views import MethodView
from flask_smorest import Blueprint
from marshmallow import Schema, fields

from monolith.runner.llm import connection_test
from monolith.web.openapi import ProblemSchema
from monolith.web.security import limit, require_admin

RATE = "10 per minute"  # each is a process and a paid call

blueprint = Blueprint("ai", __name__, description="The language model")
blueprint.before_request(require_admin)


class TrialSchema(Schema):
    object = fields.Constant("ai_test")
    configured = fields.Boolean(metadata={"description": "Whether there is a key; without one the local engine does the work"})
    ok = fields.Boolean()
    model = fields.String(allow_none=True)
    message = fields.String(metadata={"description": "How it went, in plain words, and what to mend"})
    duration_ms = fields.Integer()
    input_tokens = fields.Integer()
    output_tokens = fields.Integer()
    usd = fields.Float()


@blueprint.route("/ai/test")
class Trial(MethodView):
    @blueprint.response(200, TrialSchema)
    @blueprint.alt_response(403, schema=ProblemSchema, description="You are no admin")
    def post(self) -> dict[str, Any]:
        """Ask the language model one tiny question. 200 also when it fails: `ok` and `message` say how it went."""
        limit(RATE, "ai_test")
        return connection_test.run_connection_test()

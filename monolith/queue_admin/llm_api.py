"""`POST /api/v1/ai/test`: tests the language model. For admins."""

from __future__ import annotations

from typing import Any

from flask.views import MethodView
from flask_smorest import Blueprint
from marshmallow import Schema, fields

from monolith.runner.llm import connection_test
from monolith.web.openapi import ProblemSchema
from monolith.web.security import limit, require_admin

RATE = "10 per minute"  # each test starts a process and makes a paid call

blueprint = Blueprint("ai", __name__, description="The language model")
blueprint.before_request(require_admin)


class TestResultSchema(Schema):
    object = fields.Constant("ai_test")
    configured = fields.Boolean(metadata={"description": "Whether an API key is set. Without one, the built-in engine is used"})
    ok = fields.Boolean()
    model = fields.String(allow_none=True)
    message = fields.String(metadata={"description": "The result in words and, if the test failed, what to fix"})
    duration_ms = fields.Integer()
    input_tokens = fields.Integer()
    output_tokens = fields.Integer()
    usd = fields.Float()


@blueprint.route("/ai/test")
class Trial(MethodView):
    @blueprint.response(200, TestResultSchema)
    @blueprint.alt_response(403, schema=ProblemSchema, description="Only admins may do this")
    def post(self) -> dict[str, Any]:
        """Test the language model with one small request. Returns 200 even if the test fails; see `ok` and `message`."""
        limit(RATE, "ai_test")
        return connection_test.run_connection_test()

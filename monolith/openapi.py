"""The OpenAPI document of the API, and the page that shows it."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Flask, render_template
from flask_smorest import Api
from marshmallow import Schema, fields

from monolith.problems import HttpProblem, answer


class FieldProblemSchema(Schema):
    detail = fields.String(metadata={"description": "What is wrong and how to mend it"})
    pointer = fields.String(metadata={"description": "JSON pointer of the field"})


class ProblemSchema(Schema):
    """An error, as RFC 9457 has it."""

    type = fields.String()
    title = fields.String()
    status = fields.Integer()
    detail = fields.String(metadata={"description": "What was wrong, where, and what to do"})
    instance = fields.String(metadata={"description": "The path that was asked"})
    code = fields.String(metadata={"description": "A word for programs"})
    request_id = fields.String(metadata={"description": "Find this request in the logs"})
    errors = fields.List(fields.Nested(FieldProblemSchema))


class OurApi(Api):
    """flask-smorest's, with the errors of this project."""

    ERROR_SCHEMA = ProblemSchema

    def handle_http_exception(self, error: Any) -> Any:
        return answer(HttpProblem(error))


docs = Blueprint("docs", __name__)


@docs.get("/api/docs")
def page() -> str:
    """The API, to read and to try."""
    return render_template("api_docs.html")


def make_api(app: Flask) -> OurApi:
    """The API, whose document is at /api/openapi.json."""
    app.config.update(
        API_TITLE="Intray",
        API_VERSION="v1",
        OPENAPI_VERSION="3.1.0",
        OPENAPI_URL_PREFIX="/api",
        OPENAPI_JSON_PATH="openapi.json",
        API_SPEC_OPTIONS={
            "info": {"description": "Submit documents, run jobs on them, read the results."},
            "security": [{"token": []}],
            "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        },
    )
    app.register_blueprint(docs)
    return OurApi(app)

"""The OpenAPI document of the API, and the page that shows it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from flask import Blueprint, Flask, Response, current_app, render_template, request
from flask_smorest import Api
from marshmallow import Schema, fields

from monolith import strict_json
from monolith.config import version
from monolith.web.problems import HttpProblem, answer


class FieldProblemSchema(Schema):
    detail = fields.String(metadata={"description": "What is wrong and how to fix it"})
    pointer = fields.String(metadata={"description": "JSON pointer of the field"})


class ProblemSchema(Schema):
    """An error (RFC 9457)."""

    type = fields.String()
    title = fields.String()
    status = fields.Integer()
    detail = fields.String(metadata={"description": "What is wrong, where, and what to do"})
    instance = fields.String(metadata={"description": "The path of the request"})
    code = fields.String(metadata={"description": "A code for programs"})
    request_id = fields.String(metadata={"description": "The id of this request in the logs"})
    errors = fields.List(fields.Nested(FieldProblemSchema))


class ProblemApi(Api):
    """flask-smorest's API with problem+json errors, and the document cached."""

    ERROR_SCHEMA = ProblemSchema

    def handle_http_exception(self, error: Any) -> Any:
        return answer(HttpProblem(error))

    def _openapi_json(self) -> Response:
        return Response(self._document(request.script_root), mimetype="application/json")

    @lru_cache(maxsize=4)  # noqa: B019 - one instance lives as long as the process
    def _document(self, prefix: str) -> str:
        document = self.spec.to_dict() | ({"servers": [{"url": prefix}]} if prefix else {})
        _name_problems(document)
        return strict_json.dumps(document, indent=2)


def _name_problems(part: Any) -> None:
    """Set the media type of errors to `application/problem+json`; flask-smorest supports only one type for all responses."""
    if isinstance(part, dict):
        content = part.get("content")
        if isinstance(content, dict) and content.get("application/json", {}).get("schema", {}).get("$ref", "").endswith("/Problem"):
            content["application/problem+json"] = content.pop("application/json")
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        _name_problems(inner)


docs = Blueprint("docs", __name__)


@docs.get("/api/docs")
def page() -> str:
    """The page that shows the OpenAPI document."""
    api = current_app.extensions["flask-smorest"]["apis"][""]["ext_obj"]
    return render_template("api_docs.html", spec=api.spec.to_dict())


def make_api(app: Flask) -> ProblemApi:
    """The API, with its document at /api/openapi.json and its page at /api/docs."""
    app.config.update(
        API_TITLE="Intray",
        API_VERSION=version(),
        OPENAPI_VERSION="3.1.0",
        OPENAPI_URL_PREFIX="/api",
        OPENAPI_JSON_PATH="openapi.json",
        API_SPEC_OPTIONS={
            "info": {"description": "Submit documents, run jobs on them and read the results."},
            "security": [{"token": []}],
            "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        },
    )
    app.register_blueprint(docs)
    return ProblemApi(app)

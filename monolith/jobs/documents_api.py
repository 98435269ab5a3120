"""Documents as JSON: submit, list, show, change and delete them; download the original."""

from __future__ import annotations

from typing import Any

from flask import Response, g, jsonify
from flask.views import MethodView
from flask_login import current_user
from flask_smorest import Blueprint
from sqlalchemy import select

from monolith.db.engine import read_session
from monolith.db.models import Document
from monolith.documents import actions, queries, submission, uploads
from monolith.errors import Conflict
from monolith.jobs import request_bodies, schemas
from monolith.jobs.views import accepted, add_headroom, document_views, submission_responses, submitted_view
from monolith.web.openapi import ProblemSchema
from monolith.web.responses import download, listed
from monolith.web.security import signed_in

blueprint = Blueprint("documents", __name__, url_prefix="/documents", description="Documents you submit")
blueprint.after_request(add_headroom)


@blueprint.route("")
class Documents(MethodView):
    @blueprint.arguments(schemas.DocumentsQuery(), location="query")
    @blueprint.response(200, schemas.DocumentListSchema)
    def get(self, query: dict[str, Any]) -> Response:
        """List or search your documents, newest first."""
        with read_session() as session:
            page = queries.documents(session, current_user, **query)
            return listed(page, document_views(session, page.rows))

    @blueprint.doc(
        requestBody={
            "required": True,
            "content": {"application/json": {"schema": schemas.DocumentRequest}, "multipart/form-data": {"schema": schemas.DocumentUpload}},
        },
    )
    @blueprint.response(201, schemas.SubmittedSchema)
    @submission_responses(blueprint, schemas.SubmittedSchema)
    def post(self) -> Response:
        """Submit a document as text or URL, or one or more files, with the jobs to run on each."""
        key = request_bodies.idempotency_key()
        submitted = submission.earlier(current_user, key)  # before the body is read: a replay is not validated again
        if submitted is None:
            documents, specs = request_bodies.read_documents(current_user.id)
            submitted = submission.submit_documents(signed_in(), documents, specs, g.request_id, key)
        return accepted(submitted, submitted_view(submitted), 201)


@blueprint.route("/<document_id>")
class OneDocument(MethodView):
    @blueprint.response(200, schemas.DocumentSchema)
    @blueprint.alt_response(404, schema=ProblemSchema, description="Not found, or not yours")
    def get(self, document_id: str) -> Response:
        """Show a document and its jobs."""
        return _one_document(document_id)

    @blueprint.arguments(schemas.DocumentChange(), required=False)
    @blueprint.response(200, schemas.DocumentSchema)
    @blueprint.alt_response(404, schema=ProblemSchema, description="Not found, or not yours")
    def patch(self, changes: dict[str, Any], document_id: str) -> Response:
        """Change the title of a document, or replace its tags."""
        actions.change_document(current_user, document_id, **changes)
        return _one_document(document_id)

    @blueprint.response(204)
    @blueprint.alt_response(409, schema=ProblemSchema, description="A job is running on it")
    def delete(self, document_id: str) -> None:
        """Delete a document with its jobs and their files."""
        actions.delete_document(current_user, document_id)


def _one_document(document_id: str) -> Response:
    with read_session() as session:
        return jsonify(document_views(session, [queries.document(session, current_user, document_id)])[0])


@blueprint.route("/<document_id>/content")
class DocumentContent(MethodView):
    @blueprint.response(200, content_type="application/octet-stream")
    @blueprint.alt_response(409, schema=ProblemSchema, description="Not fetched yet")
    def get(self, document_id: str) -> Response:
        """Download the original."""
        return original(document_id)


def original(document_id: str) -> Response:
    """The content of a document as it was submitted or fetched, as a download. Raises `Conflict` for a page that is not fetched yet."""
    with read_session() as session:
        document = queries.document(session, current_user, document_id)
        content = session.scalar(select(Document.content).where(Document.id == document_id))
    if content is None:
        raise Conflict("The page has not been fetched yet. It is fetched when its first job runs.")
    return download(content, document.media_type, uploads.filename_of(document))

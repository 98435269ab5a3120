"""The result of a job as an answer or a file: as JSON, or as Markdown for people."""

from __future__ import annotations

from flask import Blueprint, Response, json
from flask_login import current_user

from monolith.db.engine import read_session
from monolith.db.models import Job
from monolith.documents import queries, result_markdown
from monolith.errors import Conflict
from monolith.web import responses

MEDIA_TYPES = {"json": "application/json", "md": "text/markdown; charset=utf-8"}
blueprint = Blueprint("results", __name__)


@blueprint.get("/jobs/<job_id>/result.<any(json, md):form>")
def download(job_id: str, form: str) -> Response:
    """The result of a finished job as a file."""
    return responses.download(written(job_id, form), MEDIA_TYPES[form], f"result-{job_id[:8]}.{form}")


def written(job_id: str, form: str) -> bytes:
    """The result as `json` or `md`. Raises `NotFound`, or `Conflict` while there is none."""
    with read_session() as session:
        job = queries.job(session, current_user, job_id)
        if job.status != "finished":
            raise Conflict(f"The job has no result: its status is {job.status}." + (f" {job.error_message}" if job.error_message else ""))
        if form == "json":
            return json.dumps(job.result).encode() + b"\n"
        own = _own_markdown(job)
        return queries.artefact(session, current_user, job_id, own).content if own else result_markdown.of_result(job).encode()


def _own_markdown(job: Job) -> str | None:
    """The name of the Markdown that the job has attached, where it has: that is its result for people."""
    return next((file.name for file in job.artefacts if file.media_type.startswith("text/markdown")), None)

"""The JSON of documents, jobs and job types, in both directions; OpenAPI is made from these."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flask import g, url_for
from marshmallow import Schema, fields
from marshmallow.validate import Length, OneOf, Range

from monolith.db.models import STATUSES, Artefact, Document, Job
from monolith.documents.uploads import KINDS
from monolith.job_types.registry import JobType
from monolith.runner.ledger.transitions import JobRecord
from monolith.runner.webhooks.payloads import rfc3339
from monolith.web.schemas import ListSchema, Moment, PageQuery, Priority, Tags, params_schema

MAX_SEARCH = 300  # characters


MAX_BATCH = 500  # jobs for one document


# ---- what comes in


class DocumentFields(Schema):
    """Fields of a document, however its content is given."""

    title = fields.String(validate=Length(1, 300), metadata={"description": "Derived from the content if left out"})
    kind = fields.String(
        validate=OneOf(KINDS), metadata={"description": "Kind of document: text, page, file, story, application or project"}
    )
    tags = Tags(metadata={"description": "Tags, to find the document by"})


class DocumentRequest(DocumentFields):
    text = fields.String(metadata={"description": "The content as text"})
    url = fields.String(metadata={"description": "The URL of a page that a worker fetches"})
    jobs = fields.List(
        fields.Raw(),
        validate=Length(max=MAX_BATCH),
        metadata={"description": "Names of job types, or {type, params, priority, delay, unique}"},
    )


class DocumentUpload(DocumentFields):
    """A form with one or more files."""

    file = fields.List(
        fields.Raw(metadata={"type": "string", "format": "binary"}), metadata={"description": "txt, md, html, pdf, docx, ..."}
    )
    jobs = fields.List(
        fields.String(), metadata={"description": "Names of job types, or JSON objects of type, params, priority, delay, unique"}
    )


class DocumentChange(DocumentFields):
    """Changes to a document. Fields that are left out keep their values."""

    class Meta:
        exclude = ("kind",)


class JobRequest(Schema):
    type = fields.String(required=True, metadata={"description": "The name of a job type"})
    params = fields.Dict(metadata={"description": "Params of the job type; see GET /api/v1/job-types"})
    document_id = fields.String(allow_none=True, metadata={"description": "The document to work on"})
    priority = Priority(allow_none=True, metadata={"description": "critical, high, normal, low, or 1..10 (10 is critical)"})
    delay = fields.Float(allow_none=True, metadata={"description": "Seconds to wait before it is queued"})
    unique = fields.Boolean(
        allow_none=True,
        metadata={"description": "Return your unfinished job of the same type and content, if there is one"},
    )

    webhook_url = fields.String(
        allow_none=True, metadata={"description": "Where to send how the job ended, signed with your shared secret"}
    )


class WaitQuery(Schema):
    wait = fields.Integer(validate=Range(0, 60), metadata={"description": "Seconds to wait for it to be over (25 at most)"})


class ResultQuery(Schema):
    format = fields.String(validate=OneOf(("json", "md")), metadata={"description": "`md` for Markdown"})


# ---- what goes out


class ErrorSchema(Schema):
    type = fields.String()
    message = fields.String()


class CostSchema(Schema):
    input_tokens = fields.Integer()
    output_tokens = fields.Integer()
    usd = fields.Float(metadata={"description": "From the prices in LLM_PRICES; 0 if the model has no price"})


class ArtefactSchema(Schema):
    name = fields.String()
    media_type = fields.String()
    size = fields.Integer(metadata={"description": "Bytes"})
    url = fields.String()


class JobSchema(Schema):
    """A job. `result` is present once it has finished, and not in lists."""

    object = fields.Constant("job")
    id = fields.String()
    type = fields.String()
    status = fields.String(validate=OneOf(STATUSES))
    priority = fields.String()
    queue = fields.String()
    progress = fields.Float(allow_none=True, metadata={"description": "0..100; null if the total is unknown"})
    progress_note = fields.String(allow_none=True)
    attempt = fields.Integer()
    max_attempts = fields.Integer()
    interruptions = fields.Integer()
    document_id = fields.String(allow_none=True)
    params = fields.Dict()
    preview = fields.Dict(metadata={"description": "An instant preview of the result, for job types that have one"})
    result = fields.Dict(allow_none=True)
    error = fields.Nested(ErrorSchema, allow_none=True)
    waiting_reason = fields.String(allow_none=True, metadata={"description": "Why the job is not running"})
    run_at = Moment(allow_none=True)
    created_at = Moment()
    started_at = Moment(allow_none=True)
    ended_at = Moment(allow_none=True)
    cost = fields.Nested(CostSchema)
    artifacts = fields.List(fields.Nested(ArtefactSchema))
    parent_id = fields.String(allow_none=True)
    links = fields.Dict(keys=fields.String(), values=fields.String())


class AcceptedJobSchema(JobSchema):
    webhook_secret = fields.String(
        metadata={"description": "The secret that signs requests to your `webhook_url`s; shown once, with your first job that has one"}
    )


class DocumentSchema(Schema):
    object = fields.Constant("document")
    id = fields.String()
    title = fields.String()
    kind = fields.String()
    tags = fields.List(fields.String())
    media_type = fields.String()
    size = fields.Integer(metadata={"description": "Bytes"})
    sha256 = fields.String(allow_none=True)
    source_url = fields.String(allow_none=True)
    route = fields.String(allow_none=True, metadata={"description": "How it will be inspected, by the latest decision: ONLINE or ONSITE"})
    decision = fields.String(allow_none=True, metadata={"description": "approve, review or reject"})
    score = fields.Integer(allow_none=True, metadata={"description": "0..100"})
    defaulted = fields.Boolean(metadata={"description": "The check failed: route and decision are the safe defaults"})
    duplicate_of = fields.String(allow_none=True, metadata={"description": "Your first document with the same content, if there is one"})
    created_at = Moment()
    jobs = fields.List(fields.Nested(JobSchema))
    links = fields.Dict(keys=fields.String(), values=fields.String())


class SubmittedSchema(Schema):
    """`document` if one was submitted, `documents` if several were."""

    document = fields.Nested(DocumentSchema)
    documents = fields.List(fields.Nested(DocumentSchema))
    jobs = fields.List(fields.Nested(JobSchema))


class JobListSchema(ListSchema):
    data = fields.List(fields.Nested(JobSchema))


class DocumentListSchema(ListSchema):
    data = fields.List(fields.Nested(DocumentSchema))


class JobTypeSchema(Schema):
    name = fields.String()
    title = fields.String()
    description = fields.String()
    queue = fields.String()
    takes = fields.String(validate=OneOf(("document", "nothing")))
    max_attempts = fields.Integer()
    backoff = fields.String(metadata={"description": "exponential or fixed, with seconds"})
    timeout = fields.Integer(metadata={"description": "Maximum seconds for one attempt"})
    schema = fields.Dict(metadata={"description": "JSON Schema of the params"})
    available = fields.Boolean()
    unavailable_reason = fields.String(allow_none=True)


class JobTypeListSchema(ListSchema):
    data = fields.List(fields.Nested(JobTypeSchema))


def job_view(
    job: Job | JobRecord, waiting_reason: str | None = None, artefacts: Iterable[Artefact] = (), result: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A job as `JobSchema` describes it. Written by hand: a schema takes ten times as long, and there are 500 in an answer."""
    own = f"{jobs_url()}/{job.id}"
    return {
        "object": "job",
        **{name: getattr(job, name) for name in _JOB},
        **({"preview": job.preview} if job.preview is not None else {}),
        "result": result,
        "error": {"type": job.error_type, "message": job.error_message} if job.error_type else None,
        "waiting_reason": waiting_reason,
        **{name: rfc3339(getattr(job, name)) for name in _JOB_MOMENTS},
        "cost": {"input_tokens": job.input_tokens, "output_tokens": job.output_tokens, "usd": round(job.usd, 9)},
        "artifacts": [_artefact_view(one) for one in artefacts],
        "parent_id": job.parent_id,
        "links": {"self": own, "result": f"{own}/result", "events": f"{own}/events"},
    }


_JOB = (
    *("id", "type", "status", "priority", "queue", "progress", "progress_note", "attempt", "max_attempts", "interruptions"),
    *("document_id", "params"),
)
_JOB_MOMENTS = ("run_at", "created_at", "started_at", "ended_at")
_DOCUMENT = ("id", "title", "kind", "tags", "media_type", "size", "sha256", "source_url", "route", "decision", "score")


def jobs_url() -> str:
    """Where the jobs are. Asked for once in an answer: making an address takes longer than all the rest of a job."""
    if "jobs_url" not in g:
        g.jobs_url = url_for("jobs.Jobs")
    return str(g.jobs_url)


def _artefact_view(one: Artefact) -> dict[str, Any]:
    url = url_for("jobs.JobArtefact", job_id=one.job_id, name=one.name)
    return {"name": one.name, "media_type": one.media_type, "size": one.size, "url": url}


def document_view(document: Document, jobs: list[dict[str, Any]], duplicate_of: str | None = None) -> dict[str, Any]:
    """A document as `DocumentSchema` describes it."""
    own = url_for("documents.OneDocument", document_id=document.id)
    return {
        "object": "document",
        **{name: getattr(document, name) for name in _DOCUMENT},
        "defaulted": bool(document.is_defaulted),
        "duplicate_of": duplicate_of,
        "created_at": rfc3339(document.created_at),
        "jobs": jobs,
        "links": {"self": own, "content": f"{own}/content"},
    }


def job_type_view(job_type: JobType) -> dict[str, Any]:
    """A job type as `JobTypeSchema` writes it."""
    names = ("name", "title", "description", "queue", "takes", "max_attempts", "backoff", "timeout", "unavailable_reason")
    view = {name: getattr(job_type, name) for name in names}
    return {**view, "schema": params_schema(job_type), "available": view["unavailable_reason"] is None}


class SearchQuery(PageQuery):
    q = fields.String(
        validate=Length(max=MAX_SEARCH),
        metadata={"description": 'Words in the title, file name, URL or text. All must match; "quotes" mark a phrase'},
    )
    kind = fields.String(validate=OneOf(KINDS), metadata={"description": "The kind of document"})
    tag = fields.String(metadata={"description": "A tag of the document"})
    status = fields.String(validate=OneOf(STATUSES), metadata={"description": "Job status; for documents, the status of any of their jobs"})
    type = fields.String(metadata={"description": "Job type; for documents, the type of any of their jobs"})


class DocumentsQuery(SearchQuery):
    sha256 = fields.String(metadata={"description": "SHA-256 of the content, to check whether you already submitted it"})


class JobsQuery(SearchQuery):
    document_id = fields.String()

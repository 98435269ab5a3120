"""The JSON of documents, jobs and batches, in both directions; OpenAPI is made from these schemas.

`views.py` builds the responses that these schemas describe.
"""

from __future__ import annotations

from marshmallow import Schema, fields
from marshmallow.validate import Length, OneOf, Range

from monolith.db.models import STATUSES
from monolith.documents.queries import MAX_SEARCH
from monolith.documents.uploads import KINDS
from monolith.runner.ledger.batches import PRUNED
from monolith.web.schemas import ListSchema, Moment, PageQuery, Priority, Tags

MAX_SPECS = 500  # jobs for one document
MAX_DOCUMENTS = 500  # in one batch
MAX_BATCH_JOBS = 1000  # in one batch
NO_DOCUMENT = "No documents were given. Give 1 to {max}."
NO_JOB = "No jobs were given. Give 1 to {max} job types; each runs on every document."


# ---- requests


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
        validate=Length(max=MAX_SPECS),
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
    priority = Priority(
        allow_none=True,
        metadata={"description": "One of the job type's `priorities`, or 1..10: 1-3 low, 4-6 normal, 7-9 high, 10 critical"},
    )
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


class BatchDocument(DocumentRequest):
    """A document of a batch: text or url, with title, kind and tags."""

    class Meta:
        exclude = ("jobs",)


class BatchRequest(Schema):
    documents = fields.List(
        fields.Raw(metadata={"type": "object"}),
        required=True,
        validate=Length(1, MAX_DOCUMENTS, error=NO_DOCUMENT),
        metadata={"description": "Each {text or url, title, kind, tags}"},
    )
    jobs = fields.List(
        fields.Raw(),
        required=True,
        validate=Length(1, MAX_SPECS, error=NO_JOB),
        metadata={"description": "Names of job types, or {type, params, priority, delay, unique}; each runs on every document"},
    )


class BatchUpload(DocumentFields):
    """A form with files."""

    class Meta:
        exclude = ("title",)

    files = fields.List(
        fields.Raw(metadata={"type": "string", "format": "binary"}),
        required=True,
        validate=Length(1, MAX_DOCUMENTS, error="No files were sent. Send 1 to {max} in the form field 'files'."),
        metadata={"description": "txt, md, html, pdf, docx, ..."},
    )
    jobs = fields.List(
        fields.Raw(metadata={"type": "string"}),
        required=True,
        validate=Length(1, MAX_SPECS, error=NO_JOB),
        metadata={"description": "Names of job types, or JSON objects of type, params, priority, delay, unique"},
    )


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


# ---- responses


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


class RefusedSchema(Schema):
    name = fields.String(metadata={"description": "The file name, or the beginning of the text"})
    pointer = fields.String(metadata={"description": "Its position in the request"})
    detail = fields.String(metadata={"description": "Why it was rejected, and what to do"})


CountsSchema = Schema.from_dict({status: fields.Integer() for status in (*STATUSES, PRUNED)}, name="BatchCountsSchema")


class BatchSummarySchema(Schema):
    object = fields.Constant("batch")
    id = fields.String()
    url = fields.String()
    created_at = Moment()
    is_over = fields.Boolean(metadata={"description": "Whether all jobs are over"})
    progress = fields.Float(metadata={"description": "0..100 over all jobs; 100 when the batch is over"})
    counts = fields.Nested(CountsSchema, metadata={"description": f"Number of jobs by status; {PRUNED}: already deleted"})
    refused = fields.List(fields.Nested(RefusedSchema), metadata={"description": "Documents that were rejected"})
    links = fields.Dict(keys=fields.String(), values=fields.String())


class BatchSchema(BatchSummarySchema):
    documents = fields.List(fields.Nested(DocumentSchema))
    jobs = fields.List(fields.Nested(JobSchema))


class LeftSchema(Schema):
    id = fields.String()
    detail = fields.String(metadata={"description": "Why it was not changed"})


class RetriedSchema(BatchSchema):
    requeued = fields.Integer(metadata={"description": "Number of failed jobs that were retried"})
    left = fields.List(fields.Nested(LeftSchema), metadata={"description": "Failed jobs for which your job limits leave no room"})


class BatchListSchema(ListSchema):
    data = fields.List(fields.Nested(BatchSummarySchema))

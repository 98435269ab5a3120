"""The JSON of batches, in both directions."""

from __future__ import annotations

from typing import Any

from flask import url_for
from marshmallow import Schema, fields
from marshmallow.validate import Length

from monolith.content.formatting import rfc3339
from monolith.db.models import STATUSES
from monolith.jobs import schemas as s
from monolith.runner.ledger.batches import PRUNED, Batch, BatchProgress
from monolith.web import schemas

MAX_DOCUMENTS = 500
MAX_JOBS = 1000  # of one batch
NO_DOCUMENT = "No documents were given. Give 1 to {max}."
NO_JOB = "No jobs were given. Give 1 to {max} job types; each runs on every document."


class BatchDocument(s.DocumentRequest):
    """One document of a batch: text or url, and what may be said of it."""

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
        validate=Length(1, s.MAX_BATCH, error=NO_JOB),
        metadata={"description": "Names of job types, or {type, params, priority, delay, unique}; each runs on every document"},
    )


class BatchUpload(s.DocumentFields):
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
        validate=Length(1, s.MAX_BATCH, error=NO_JOB),
        metadata={"description": "Names of job types, or JSON objects of type, params, priority, delay, unique"},
    )


class RefusedSchema(Schema):
    name = fields.String(metadata={"description": "The file name, or the beginning of the text"})
    pointer = fields.String(metadata={"description": "Its position in the request"})
    detail = fields.String(metadata={"description": "Why it was rejected, and what to do"})


CountsSchema = Schema.from_dict({status: fields.Integer() for status in (*STATUSES, PRUNED)}, name="BatchCountsSchema")


class BatchSummarySchema(Schema):
    object = fields.Constant("batch")
    id = fields.String()
    url = fields.String()
    created_at = schemas.Moment()
    is_over = fields.Boolean(metadata={"description": "Whether all jobs are over"})
    progress = fields.Float(metadata={"description": "0..100 over all jobs; 100 when the batch is over"})
    counts = fields.Nested(CountsSchema, metadata={"description": f"Number of jobs by status; {PRUNED}: already deleted"})
    refused = fields.List(fields.Nested(RefusedSchema), metadata={"description": "Documents that were rejected"})
    links = fields.Dict(keys=fields.String(), values=fields.String())


class BatchSchema(BatchSummarySchema):
    documents = fields.List(fields.Nested(s.DocumentSchema))
    jobs = fields.List(fields.Nested(s.JobSchema))


class RetriedSchema(BatchSchema):
    requeued = fields.Integer(metadata={"description": "Number of failed jobs that were retried"})


class BatchListSchema(schemas.ListSchema):
    data = fields.List(fields.Nested(BatchSummarySchema))


def batch_view(batch: Batch, standing: BatchProgress) -> dict[str, Any]:
    """A batch as `BatchSummarySchema` describes it."""
    own = url_for("batches.OneBatch", batch_id=batch.id)
    return {
        "object": "batch",
        "id": batch.id,
        "url": own,
        "created_at": rfc3339(batch.created_at),
        "is_over": standing.is_over,
        "progress": round(standing.progress, 1),
        "counts": standing.counts,
        "refused": batch.refused,
        "links": {"self": own, "retry": f"{own}/retry", "page": url_for("batch_pages.show", batch_id=batch.id)},
    }

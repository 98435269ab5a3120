"""What may be asked of the lists of documents and jobs, by the API and in the addresses of the pages."""

from __future__ import annotations

from marshmallow import fields
from marshmallow.validate import Length, OneOf

from monolith.jobs.schemas import PageQuery
from monolith.jobs.uploads import KINDS
from monolith.models import STATUSES

MAX_SEARCH = 300  # characters


class SearchQuery(PageQuery):
    q = fields.String(
        validate=Length(max=MAX_SEARCH),
        metadata={"description": 'Words of title, file name, address and text: all of them, each as it begins; "in quotes" side by side'},
    )
    kind = fields.String(validate=OneOf(KINDS), metadata={"description": "What the document is"})
    tag = fields.String(metadata={"description": "A tag of the document"})
    status = fields.String(validate=OneOf(STATUSES), metadata={"description": "Of the job; of any job, for documents"})
    type = fields.String(metadata={"description": "The job type, likewise"})


class DocumentsQuery(SearchQuery):
    sha256 = fields.String(metadata={"description": "Of the content: whether you have handed it in already"})


class JobsQuery(SearchQuery):
    document_id = fields.String()

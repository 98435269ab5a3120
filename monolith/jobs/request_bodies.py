"""Documents and jobs read from the body of a request: JSON, or a form with files."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import request
from marshmallow import Schema, ValidationError
from werkzeug.datastructures import FileStorage

from monolith.db.models import Document
from monolith.documents import uploads
from monolith.documents.uploads import Given, read, sort_out
from monolith.errors import FieldError, Invalid
from monolith.job_types.registry import field_errors
from monolith.jobs import schemas as s
from monolith.jobs.batch_schemas import MAX_JOBS, BatchDocument, BatchRequest, BatchUpload
from monolith.web import strict_json


def of_json(owner_id: int) -> tuple[list[Document], list[Any]]:
    """The document of a JSON body, and the jobs asked for. Raises `Invalid` naming the field."""
    fields = _load(s.DocumentRequest, request.get_json(silent=True) or {})
    specs = fields.pop("jobs", [])
    return [_document(owner_id, fields)], specs


def _document(owner_id: int, fields: dict[str, Any]) -> Document:
    given = [name for name in ("text", "url") if fields.get(name)]
    if len(given) != 1:
        raise Invalid.field("/text", "Give either text or url, not both. Send files as multipart/form-data.")
    text, url = fields.pop("text", None), fields.pop("url", None)
    make = uploads.from_text if text else uploads.from_url
    return make(owner_id, text or url, **fields)


def of_form(owner_id: int) -> tuple[list[Document], list[Any]]:
    """The documents of a form with files, and the jobs asked for. Raises `Invalid` or `TooLarge` naming the field."""
    files = [(file.filename, read(file)) for file in request.files.getlist("file") if file.filename]
    if not files:
        raise Invalid.field("/file", "No file was sent. Send one or more in the form field 'file'.")
    form = {name: value for name, value in request.form.items() if name not in ("jobs", "csrf_token") and value}
    fields = _load(s.DocumentFields, form)
    pointers = ["/file"] if len(files) == 1 else [f"/file/{place}" for place in range(len(files))]
    given = [uploads.from_file(owner_id, name, content, p, **fields) for (name, content), p in zip(files, pointers, strict=True)]
    return given, [spec for text in request.form.getlist("jobs") for spec in _specs(text)]


def of_batch(owner_id: int) -> tuple[list[Document], list[dict[str, str]], list[Any]]:
    """The documents of a batch, those that are refused with the reason, and the jobs asked for.

    Raises `Invalid` when what is said of all of them is wrong, or none can be taken.
    """
    given, specs = _given_as_files(owner_id) if request.mimetype == "multipart/form-data" else _given_as_json(owner_id)
    documents, refused = sort_out(given)
    if not documents:
        errors = [FieldError(one["detail"], one["pointer"]) for one in refused]
        raise Invalid("All documents were rejected. Nothing was submitted.", errors=errors)
    check_size(len(documents), len(specs))
    return documents, refused, specs


def check_size(documents: int, jobs: int) -> None:
    """Raises `Invalid` for more jobs than a batch may have."""
    if documents * jobs > MAX_JOBS:
        detail = f"{documents} documents with {jobs} jobs each exceed the limit of {MAX_JOBS:,} jobs. Submit them as several batches."
        raise Invalid.field("/jobs", detail)


def _given_as_json(owner_id: int) -> tuple[list[Given], list[Any]]:
    fields = _load(BatchRequest, request.get_json(silent=True) or {})
    made = [partial(_of_fields, owner_id, one) for one in fields["documents"]]
    named = zip(fields["documents"], made, strict=True)
    return [Given(_name_of(one), f"/documents/{place}", make) for place, (one, make) in enumerate(named)], fields["jobs"]


def _of_fields(owner_id: int, fields: Any) -> Document:
    return _document(owner_id, _load(BatchDocument, fields))


def _name_of(given: Any) -> str:
    said = [given.get(name) for name in ("title", "url", "text")] if isinstance(given, dict) else [given]
    return next((" ".join(str(one).split())[:100] for one in said if one), "")


def _given_as_files(owner_id: int) -> tuple[list[Given], list[Any]]:
    fields: dict[str, Any] = {name: value for name, value in request.form.items() if name not in ("jobs", "csrf_token") and value}
    fields["files"] = [file for file in request.files.getlist("files") if file.filename]
    fields["jobs"] = [spec for text in request.form.getlist("jobs") for spec in _specs(text)]
    about = _load(BatchUpload, fields)
    files, specs = about.pop("files"), about.pop("jobs")
    return [_given_as_file(owner_id, file, f"/files/{place}", about) for place, file in enumerate(files)], specs


def _given_as_file(owner_id: int, file: FileStorage, pointer: str, about: dict[str, Any]) -> Given:
    name = file.filename or ""
    return Given(name, pointer, lambda: uploads.from_file(owner_id, name, read(file), pointer, **about))


def _specs(text: str) -> list[Any]:
    """A form's word for jobs: names joined by commas, a JSON object, or a JSON list."""
    if not text.lstrip().startswith(("{", "[", '"')):
        return [name.strip() for name in text.split(",") if name.strip()]
    try:
        found = strict_json.loads(text.encode())
    except ValueError as error:
        raise Invalid.field("/jobs", f"This is neither a job type nor valid JSON: {error}.") from error
    return found if isinstance(found, list) else [found]


def _load(schema: type[Schema], given: Any) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = schema().load(given)
    except ValidationError as error:
        raise Invalid("Some fields are invalid.", errors=field_errors(error.messages, "")) from error
    return loaded

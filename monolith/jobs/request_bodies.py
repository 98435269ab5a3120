"""What a request asks for: documents and jobs in a JSON body, in a multipart body or in a page's form, and its idempotency key."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from functools import partial
from typing import Any

from flask import request
from werkzeug.datastructures import FileStorage, MultiDict

from monolith import strict_json
from monolith.content.fetch import MAX_URL
from monolith.db.models import Document, new_id
from monolith.documents import uploads
from monolith.documents.uploads import Upload, accept_each, read_file
from monolith.errors import FieldError, Invalid, Problem
from monolith.job_types.validation import load_fields
from monolith.jobs import schemas
from monolith.runner.ledger.idempotency import Key
from monolith.web import forms

NO_DOCUMENT = "There is nothing to submit yet. Choose a file, paste some text, or give a link."
ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.-]*://|www\.)\S+", re.IGNORECASE)  # pasted text of nothing but these means pages
MAX_ADDRESSES = 50
FORM_KEY = "once"  # the hidden field that makes a form unique
IGNORED_FIELDS = ("csrf_token", FORM_KEY)  # fields that do not change what the form asks for


# ---- POST /documents


def read_documents(owner_id: int) -> tuple[list[Document], list[Any]]:
    """The documents and job specs of a JSON or multipart body. Raises `Invalid` or `TooLarge` naming the field."""
    if request.mimetype != "multipart/form-data":
        fields = load_fields(schemas.DocumentRequest(), request.get_json(silent=True) or {})
        specs = fields.pop("jobs", [])
        return [_json_document(owner_id, fields)], specs
    fields, files, specs = _multipart("file")
    if not files:
        raise Invalid.field("/file", "No file was sent. Send one or more in the form field 'file'.")
    fields = load_fields(schemas.DocumentFields(), fields)
    pointers = ["/file"] if len(files) == 1 else [f"/file/{place}" for place in range(len(files))]
    return [_file_upload(owner_id, one, pointer, fields).make() for one, pointer in zip(files, pointers, strict=True)], specs


def _json_document(owner_id: int, fields: dict[str, Any]) -> Document:
    """The document of `text` or `url`. Raises `Invalid` for both or neither."""
    text, url = fields.pop("text", None), fields.pop("url", None)
    if bool(text) == bool(url):
        raise Invalid.field("/text", "Give either text or url, not both. Send files as multipart/form-data.")
    return uploads.from_text(owner_id, text, **fields) if text else uploads.from_url(owner_id, url, **fields)


def _multipart(file_field: str) -> tuple[dict[str, Any], list[FileStorage], list[Any]]:
    """A multipart body: its text fields that are not empty, its files, and its job specs."""
    fields = {name: value for name, value in request.form.items() if name not in ("jobs", "csrf_token") and value}
    files = [file for file in request.files.getlist(file_field) if file.filename]
    return fields, files, [spec for text in request.form.getlist("jobs") for spec in _specs(text)]


def _specs(text: str) -> list[Any]:
    """The job specs in a form field: names joined by commas, a JSON object, or a JSON list."""
    if not text.lstrip().startswith(("{", "[", '"')):
        return [name.strip() for name in text.split(",") if name.strip()]
    try:
        found = strict_json.loads(text.encode())
    except ValueError as error:
        raise Invalid.field("/jobs", f"This is neither a job type nor valid JSON: {error}.") from error
    return found if isinstance(found, list) else [found]


def _file_upload(owner_id: int, file: FileStorage, pointer: str, fields: dict[str, Any]) -> Upload:
    name = file.filename or ""
    return Upload(name, pointer, lambda: uploads.from_file(owner_id, name, read_file(file), pointer, **fields))


# ---- POST /batches


def read_batch(owner_id: int) -> tuple[list[Document], list[dict[str, str]], list[Any]]:
    """The documents of a batch, the rejected ones as {name, pointer, detail}, and the job specs, of a JSON or multipart body.

    Raises `Invalid` if the request itself is wrong, or every document is rejected.
    """
    if request.mimetype == "multipart/form-data":
        fields, files, specs = _multipart("files")
        fields = load_fields(schemas.BatchUpload(), {**fields, "files": files, "jobs": specs})
        files, specs = fields.pop("files"), fields.pop("jobs")
        given = [_file_upload(owner_id, file, f"/files/{place}", fields) for place, file in enumerate(files)]
    else:
        fields = load_fields(schemas.BatchRequest(), request.get_json(silent=True) or {})
        specs = fields["jobs"]
        given = [_json_upload(owner_id, one, f"/documents/{place}") for place, one in enumerate(fields["documents"])]
    documents, rejected = accept_each(given)
    if not documents:
        errors = [FieldError(one["detail"], one["pointer"]) for one in rejected]
        raise Invalid("All documents were rejected. Nothing was submitted.", errors=errors)
    _check_number_of_jobs(len(documents), len(specs))
    return documents, rejected, specs


def _json_upload(owner_id: int, fields: Any, pointer: str) -> Upload:
    """A document of a JSON body, called by its title, its URL, or the beginning of its text."""
    names = [fields.get(name) for name in ("title", "url", "text")] if isinstance(fields, dict) else [fields]
    name = next((" ".join(str(one).split())[:100] for one in names if one), "")
    return Upload(name, pointer, lambda: _json_document(owner_id, load_fields(schemas.BatchDocument(), fields)))


def _check_number_of_jobs(documents: int, specs: int) -> None:
    if documents * specs > schemas.MAX_BATCH_JOBS:
        limit = f"the limit of {schemas.MAX_BATCH_JOBS:,} jobs"
        raise Invalid.field("/jobs", f"{documents} documents with {specs} jobs each exceed {limit}. Submit them as several batches.")


# ---- the page's form


def read_page_form(owner_id: int) -> tuple[list[Document], list[dict[str, str]], list[Any]]:
    """The documents in the page's form, the rejected files as {name, pointer, detail}, and the job specs.

    Raises `Invalid` if a field is wrong, nothing was given, or every file is rejected.
    """
    form = request.form
    fields = load_fields(
        schemas.DocumentFields(), {name: form[name].strip() for name in ("title", "kind", "tags") if form.get(name, "").strip()}
    )
    written = _pasted(owner_id, form.get("text", "").replace("\r\n", "\n"), fields)
    files = [file for file in request.files.getlist("file") if file.filename]
    given = [_file_upload(owner_id, file, f"/file/{place}", fields) for place, file in enumerate(files)]
    given = [replace(one, name=uploads.safe_filename(one.name)) for one in given]
    for one in form.getlist("left_out")[: schemas.MAX_DOCUMENTS]:  # files the page did not send: "<size> <name>"
        size, _, name = one.partition(" ")
        given.append(Upload(name, "/file", partial(uploads.refuse_unsent, name, size)))
    if not written and not given:
        raise Invalid.field("/file", NO_DOCUMENT)
    if len(written) + len(given) > 1 and "title" in fields:
        raise Invalid.field("/title", "A title applies to one document only. Leave it empty, or submit one document at a time.")
    accepted, rejected = accept_each(given)
    if not accepted and not written:
        raise Invalid("All files were rejected.", errors=[FieldError(one["detail"], "/file") for one in rejected])
    documents, specs = [*accepted, *written], forms.read_specs(form)
    _check_number_of_jobs(len(documents), len(specs))
    return documents, rejected, specs


def _pasted(owner_id: int, text: str, fields: dict[str, Any]) -> list[Document]:
    """A document of the pasted text; if every line is a web address, a page for each."""
    lines = text.split("\n") if len(text) < MAX_ADDRESSES * MAX_URL else []
    addresses = [line.strip() for line in lines if line.strip()]
    if addresses and len(addresses) <= MAX_ADDRESSES and all(ADDRESS.fullmatch(one) for one in addresses):
        return [uploads.from_url(owner_id, one if "://" in one else f"https://{one}", **fields) for one in addresses]
    return [uploads.from_text(owner_id, text, **fields)] if text.strip() else []


def read_tags() -> list[str]:
    """The tags typed in a page's form. Raises `Invalid` for none, or for one that is too long."""
    tags: list[str] = load_fields(schemas.DocumentFields(), {"tags": request.form.get("tags", "").strip()})["tags"]
    if not tags:
        raise Invalid.field("/tags", "No tags were given. Enter one or more, separated by commas.")
    return tags


# ---- idempotency keys


def idempotency_key() -> Key | None:
    """The `Idempotency-Key` of an API request, or None. Raises `Problem` for an invalid one."""
    given = request.headers.get("Idempotency-Key")
    if given is None:
        return None
    bare = given[1:-1] if len(given) > 1 and given[0] == given[-1] == '"' else given  # the IETF draft quotes it, most clients do not
    if not re.fullmatch(r"[\x21-\x7e]{1,255}", bare):
        detail = "This Idempotency-Key is not valid. Use 1 to 255 visible ASCII characters without spaces, such as a UUID."
        raise Problem(detail, errors=[FieldError(detail, "/Idempotency-Key")])
    return Key(bare, _fingerprint())


def form_idempotency_key() -> Key | None:
    """The key of a page's form, or None: sending it twice creates one submission; changing a field in between creates another."""
    unique = request.form.get(FORM_KEY)
    if not unique:
        return None
    fingerprint = _fingerprint()
    return Key(f"form {_digest([unique, fingerprint])}", fingerprint)  # the space keeps it apart from every key of the API


def form_key(typed: MultiDict[str, str]) -> str:
    """The value of the hidden field FORM_KEY: what was sent, or a new one."""
    return typed.get(FORM_KEY) or new_id()


def _fingerprint() -> str:
    """A hash of what the request asks for; the order of JSON keys and the multipart boundary make no difference."""
    if request.mimetype != "multipart/form-data" and not request.form:
        return _digest([request.method, request.path, request.get_json(silent=True)])
    files = []
    for name, file in request.files.items(multi=True):
        files.append([name, file.filename or "", hashlib.file_digest(file.stream, "sha256").hexdigest()])  # type: ignore[arg-type]
        file.stream.seek(0)
    fields = {name: values for name, values in request.form.lists() if name not in IGNORED_FIELDS}
    return _digest([request.method, request.path, {"fields": fields, "files": files}])


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

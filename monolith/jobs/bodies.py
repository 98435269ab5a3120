"""Documents and jobs read from the body of a request: JSON, or a form with files."""

from __future__ import annotations

from typing import Any

from flask import request
from marshmallow import Schema, ValidationError
from werkzeug.datastructures import FileStorage

from monolith import strict_json
from monolith.errors import Invalid
from monolith.jobs import schemas as s
from monolith.jobs import uploads
from monolith.models import Document
from monolith.runner.registry import field_errors


def of_json(owner_id: int) -> tuple[list[Document], list[Any]]:
    """The document of a JSON body, and the jobs asked for. Raises `Invalid` naming the field."""
    fields = _load(s.DocumentRequest, request.get_json(silent=True) or {})
    specs = fields.pop("jobs", [])
    given = [name for name in ("text", "url") if fields.get(name)]
    if len(given) != 1:
        raise Invalid.field("/text", "Give either text or url, and not both; files are sent as multipart/form-data.")
    text, url = fields.pop("text", None), fields.pop("url", None)
    make = uploads.from_text if text else uploads.from_url
    return [make(owner_id, text or url, **fields)], specs


def of_form(owner_id: int) -> tuple[list[Document], list[Any]]:
    """The documents of a form with files, and the jobs asked for. Raises `Invalid` or `TooLarge` naming the field."""
    files = [(file.filename, _read(file)) for file in request.files.getlist("file") if file.filename]
    if not files:
        raise Invalid.field("/file", "There is no file. Send one or more in the form field 'file'.")
    form = {name: value for name, value in request.form.items() if name not in ("jobs", "csrf_token") and value}
    fields = _load(s.DocumentFields, form)
    pointers = ["/file"] if len(files) == 1 else [f"/file/{place}" for place in range(len(files))]
    given = [uploads.from_file(owner_id, name, content, p, **fields) for (name, content), p in zip(files, pointers, strict=True)]
    return given, [spec for text in request.form.getlist("jobs") for spec in _specs(text)]


def _read(file: FileStorage) -> bytes:
    """The content; what was spooled to disk for it is let go at once."""
    with file.stream as stream:
        content: bytes = stream.read()
    return content


def _specs(text: str) -> list[Any]:
    """A form's word for jobs: names joined by commas, a JSON object, or a JSON list."""
    if not text.lstrip().startswith(("{", "[", '"')):
        return [name.strip() for name in text.split(",") if name.strip()]
    try:
        found = strict_json.loads(text.encode())
    except ValueError as error:
        raise Invalid.field("/jobs", f"This is neither the name of a job type nor JSON: {error}.") from error
    return found if isinstance(found, list) else [found]


def _load(schema: type[Schema], given: Any) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = schema().load(given)
    except ValidationError as error:
        raise Invalid("Some fields need mending.", errors=field_errors(error.messages, "")) from error
    return loaded

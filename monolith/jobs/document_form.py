"""The forms of the pages: controls made from a job type's params, and what a person filled in as documents and jobs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import Any

from marshmallow import ValidationError
from werkzeug.datastructures import FileStorage, MultiDict

from monolith.db.models import Document
from monolith.documents import uploads
from monolith.documents.uploads import MAX_URL, Given, read, sort_out
from monolith.errors import FieldError, Invalid, Problem
from monolith.job_types.registry import field_errors
from monolith.jobs.batch_schemas import MAX_DOCUMENTS
from monolith.jobs.schemas import DocumentFields

NOTHING = "There is nothing to submit yet. Choose a file, paste some text, or give a link."
ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.-]*://|www\.)\S+", re.IGNORECASE)  # a text of nothing else is meant as pages
MAX_ADDRESSES = 50


def read_documents(owner_id: int, form: MultiDict[str, str], files: Iterable[FileStorage]) -> tuple[list[Document], list[dict[str, str]]]:
    """Every document in the form, and the files that cannot be taken, each with the reason.

    Raises `Invalid` when what was written is wrong, which a person mends at once, or when nothing is left to be taken.
    """
    about = _about(form)
    written = _written(owner_id, form.get("text", "").replace("\r\n", "\n"), about)
    given = [*_chosen(owner_id, files, about), *_left_out(form)]
    if not written and not given:
        raise Invalid.field("/file", NOTHING)
    if len(written) + len(given) > 1 and "title" in about:
        raise Invalid.field("/title", "A title applies to one document only. Leave it empty, or submit one document at a time.")
    taken, refused = sort_out(given)
    if not taken and not written:
        raise Invalid("All files were rejected.", errors=[FieldError(one["detail"], "/file") for one in refused])
    return [*taken, *written], refused


def read_tags(form: MultiDict[str, str]) -> list[str]:
    """The tags typed in a form. Raises `Invalid` for none, and for what is too long."""
    tags: list[str] = _loaded({"tags": form.get("tags", "").strip()})["tags"]
    if not tags:
        raise Invalid.field("/tags", "No tags were given. Enter one or more, separated by commas.")
    return tags


def _about(form: MultiDict[str, str]) -> dict[str, Any]:
    return _loaded({name: form[name].strip() for name in ("title", "kind", "tags") if form.get(name, "").strip()})


def _loaded(fields: dict[str, str]) -> dict[str, Any]:
    try:
        given: dict[str, Any] = DocumentFields().load(fields)
    except ValidationError as error:
        raise Invalid("Some fields are invalid.", errors=field_errors(error.messages, "")) from error
    return given


def _written(owner_id: int, text: str, about: dict[str, Any]) -> list[Document]:
    """A document of the text; of addresses, one a line, a page each."""
    lines = text.split("\n") if len(text) < MAX_ADDRESSES * MAX_URL else []
    addresses = [line.strip() for line in lines if line.strip()]
    if addresses and len(addresses) <= MAX_ADDRESSES and all(ADDRESS.fullmatch(one) for one in addresses):
        return [uploads.from_url(owner_id, one if "://" in one else f"https://{one}", **about) for one in addresses]
    return [uploads.from_text(owner_id, text, **about)] if text.strip() else []


def _chosen(owner_id: int, files: Iterable[FileStorage], about: dict[str, Any]) -> list[Given]:
    return [_of_file(owner_id, file, f"/file/{place}", about) for place, file in enumerate(file for file in files if file.filename)]


def _of_file(owner_id: int, file: FileStorage, pointer: str, about: dict[str, Any]) -> Given:
    name = uploads.safe_filename(file.filename or "")
    return Given(name, pointer, lambda: uploads.from_file(owner_id, name, read(file), pointer, **about))


def _left_out(form: MultiDict[str, str]) -> list[Given]:
    """The files that the page did not send, because it saw that they cannot be taken; each said as its size and its name."""
    told = [one.partition(" ") for one in form.getlist("left_out")[:MAX_DOCUMENTS]]
    return [Given(name, "/file", partial(uploads.refuse_unsent, name, size)) for size, _, name in told]


def errors_by_control(problem: Problem, form: MultiDict[str, str]) -> dict[str, list[str]]:
    """What is wrong by the name of the control it belongs to; under "" what belongs to none."""
    found: dict[str, list[str]] = {}
    for error in problem.errors or [FieldError(problem.detail, "")]:
        found.setdefault(_control_of(error.pointer, form.getlist("job")), []).append(error.detail)
    return found


def _control_of(pointer: str, types: list[str]) -> str:
    """`/file/2` is of `file`, `/jobs/0/params/name` of `analyze.name`, `/jobs/0/type` of `job`."""
    parts = pointer.strip("/").split("/")
    if parts[0] == "jobs" and len(parts) > 1 and parts[1].isdigit() and int(parts[1]) < len(types):
        return _control_of("/" + "/".join(parts[2:]), [types[int(parts[1])]])
    if parts[0] == "params" and len(parts) > 1 and types:
        return f"{types[0]}.{parts[1]}"
    names = {"type": "job", "jobs": "job", "url": "text"}
    name = names.get(parts[0], parts[0])
    return name if name in ("file", "text", "title", "kind", "tags", "job", "priority") else ""

"""Several originals or results as one zip, written to a temporary file one by one, so that memory holds one of them at a time."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import IO

from sqlalchemy import select
from sqlalchemy.orm import undefer

from monolith import strict_json
from monolith.config import settings
from monolith.content.formatting import subject
from monolith.db.engine import read_session
from monolith.db.models import Artefact, Document, User
from monolith.documents import actions, queries, uploads
from monolith.errors import Invalid

Entry = tuple[str, float, bytes]  # name, moment, content


def originals(user: User, ids: list[str]) -> IO[bytes]:
    """A zip of the originals of these documents. Raises `Invalid` when they are too large together, or there is none."""
    return _packed(_originals(user, ids), "None of these documents has an original yet: pages are fetched when their first job runs.", ids)


def _originals(user: User, ids: list[str]) -> Iterator[Entry]:
    for one in ids:
        with read_session() as session:
            document = queries.document(session, user, one)
            content = session.scalar(select(Document.content).where(Document.id == one))
        if content is not None:
            yield uploads.filename_of(document), document.created_at, content


def results(user: User, ids: list[str]) -> IO[bytes]:
    """A zip of the results and files of those jobs that are done. Raises `Invalid` when they are too large together, or none is done."""
    return _packed(_results(user, ids), "None of these jobs is done yet. Select at least one that is.", ids)


def _results(user: User, ids: list[str]) -> Iterator[Entry]:
    for one in ids:
        with read_session() as session:
            job = queries.job(session, user, one)
            if job.status != "finished":
                continue
            stem = PurePosixPath(uploads.safe_filename(f"{subject(job)[:80]} {job.type}.json")).stem
            yield f"{stem}.json", job.created_at, strict_json.dumps(job.result, ensure_ascii=False, indent=2).encode()
            for file in session.scalars(select(Artefact).where(Artefact.job_id == one).options(undefer(Artefact.content))):
                yield f"{stem} {file.name}", job.created_at, file.content


def _packed(entries: Iterator[Entry], nothing: str, ids: list[str]) -> IO[bytes]:
    actions.check_selection(ids)
    with ExitStack() as on_error:
        packed = on_error.enter_context(tempfile.TemporaryFile())
        if not _write(packed, entries):
            raise Invalid.field("/ids", nothing)
        on_error.pop_all()  # the response closes it
    packed.seek(0)
    return packed


def _write(packed: IO[bytes], entries: Iterator[Entry]) -> int:
    """Write the entries, and return their number. Raises `Invalid` when they are too large together."""
    limit, size, names = settings().max_request_bytes, 0, set[str]()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, at, content in entries:
            size += len(content)
            if size > limit:
                raise Invalid.field("/ids", f"Together they exceed {limit // 1024 // 1024} MB. Select fewer.")
            entry = zipfile.ZipInfo(_unused(name, names), datetime.fromtimestamp(at, UTC).timetuple()[:6])
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return len(names)


def _unused(name: str, names: set[str]) -> str:
    """The name, with a number if it is used already."""
    path, number = PurePosixPath(name), 1
    while name in names:
        number += 1
        name = f"{path.stem} ({number}){path.suffix}"
    names.add(name)
    return name

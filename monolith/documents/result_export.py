"""The result of a job as a file: as JSON, or as Markdown with headings from the field names, lists, and tables of similar rows.

All text in a result is escaped: what strangers wrote has no meaning in Markdown or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from monolith import strict_json
from monolith.content.formatting import humanise, subject
from monolith.db.models import Job, User
from monolith.documents import queries
from monolith.errors import Conflict

MEDIA_TYPES = {"json": "application/json", "md": "text/markdown; charset=utf-8"}
DEEPEST = 6  # Markdown has no smaller heading
LONG = 120  # characters; a longer value gets a paragraph of its own
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~])")


def result_bytes(session: Session, user: User, job_id: str, form: str) -> bytes:
    """The result of the user's job as `json` or `md`. Raises `NotFound`, and `Conflict` when the job has no result.

    A Markdown file that the job attached is its result as Markdown.
    """
    job = queries.job(session, user, job_id)
    if job.status != "finished":
        raise Conflict(f"The job has no result: its status is {job.status}." + (f" {job.error_message}" if job.error_message else ""))
    if form == "json":
        return strict_json.dumps(job.result).encode() + b"\n"
    attached = next((file.name for file in job.artefacts if file.media_type.startswith("text/markdown")), None)
    return queries.artefact(session, user, job_id, attached).content if attached else markdown_of(job).encode()


def markdown_of(job: Job) -> str:
    """The result of a finished job as Markdown."""
    ended = datetime.fromtimestamp(job.ended_at or 0, UTC).strftime("%-d %B %Y, %H:%M UTC")
    head = [f"# {_text(subject(job))}", f"*{humanise(job.type)}, done on {ended}*"]
    return "\n\n".join([*head, *_fields(job.result or {}, 2)]) + "\n"


def _fields(values: Mapping[str, Any], level: int) -> Iterator[str]:
    """Short values first, as one list; then each other value under a heading, multi-line texts last."""
    short = {name: value for name, value in values.items() if _is_cell(value) and value not in (None, "") and len(str(value)) <= LONG}
    if short:
        yield "\n".join(f"- **{_text(humanise(name))}**: {_scalar(value)}" for name, value in short.items())
    for name, value in sorted(values.items(), key=lambda item: _is_multiline(item[1])):
        if name not in short and value not in (None, [], {}, ""):
            yield f"{'#' * min(level, DEEPEST)} {_text(humanise(str(name)))}"
            yield from _whole(value, level + 1)


def _whole(value: Any, level: int) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from _fields(value, level)
    elif isinstance(value, list | tuple):
        yield from _list(value, level)
    elif _is_multiline(value):
        yield _fenced(value)
    else:
        yield _scalar(value)


def _list(values: list[Any] | tuple[Any, ...], level: int) -> Iterator[str]:
    if all(isinstance(one, Mapping) and all(_is_cell(inner) for inner in one.values()) for one in values):
        yield _table(values)
    elif any(isinstance(one, Mapping) for one in values):
        for number, one in enumerate(values, 1):
            yield f"{'#' * min(level, DEEPEST)} {number}"
            yield from _whole(one, level + 1)
    else:
        yield "\n".join(f"- {_item(one)}" for one in values)


def _item(value: Any) -> str:
    return ": ".join(_item(one) for one in value) if isinstance(value, list | tuple) else _scalar(value)


def _table(rows: Any) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[humanise(str(name)) for name in names], *([row.get(name) for name in names] for row in rows)]
    written = [f"| {' | '.join(_scalar(cell) for cell in line)} |" for line in lines]
    return "\n".join([written[0], "|" + " --- |" * len(names), *written[1:]])


def _fenced(text: str) -> str:
    """The text unchanged, within a fence that is longer than any in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text.rstrip()}\n{fence}"


def _is_multiline(value: Any) -> bool:
    return isinstance(value, str) and "\n" in value.strip()


def _is_cell(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and not _is_multiline(value))


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else _text(str(value))


def _text(text: str) -> str:
    """The text on one line, with all characters escaped that mean something in Markdown or HTML."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))

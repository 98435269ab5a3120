"""A job for one document: what makes it the same work as another, what can be said of it at once, and what is automatic."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import replace
from functools import cache
from typing import Any

from sqlalchemy import func, inspect, select

from monolith.db.engine import read_connection
from monolith.db.models import Document, User, new_id
from monolith.errors import Invalid
from monolith.job_types import registry
from monolith.job_types.interface import HEAD, SubmittedDocument
from monolith.runner.ledger.insert import JobSpec
from monolith.runner.queue.rq_queues import PRIORITIES

MAX_TAGS = 20
MAX_DELAY_S = 30 * 24 * 3600


SAME_WORK = uuid.UUID("5d6b5a3e-4a0e-5f0a-9c51-6f1c2f7f9c11")  # the namespace of ids that are made from what is to be done


def job_spec_for(wanted: JobSpec, user: User, document: Document | None) -> JobSpec:
    """The job for this document, or for none. A page that is not fetched yet has no content, and is like itself only."""
    content = (document.sha256 or document.id) if document else None
    return replace(
        wanted,
        id=_id(wanted, user, document, content),
        document_id=document.id if document else None,
        content_key=hashlib.sha256(_said(user.id, wanted.type.name, wanted.params, content)).hexdigest(),
        preview=_preview(wanted, document),
    )


def _id(wanted: JobSpec, user: User, document: Document | None, content: str | None) -> str:
    """A new id; the same again for the same work, and another for each owner's."""
    if wanted.type.identity is None:
        return new_id()
    about = [document.title, document.tags or []] if document else []
    return str(uuid.uuid5(SAME_WORK, _said(user.id, wanted.type.name, wanted.type.identity(wanted.params), content, about).decode()))


def _said(*what: Any) -> bytes:
    return json.dumps(what, sort_keys=True, default=str).encode()


def _preview(wanted: JobSpec, document: Document | None) -> dict[str, Any] | None:
    if wanted.type.preview is None:
        return None
    handed = SubmittedDocument(document.title, document.tags or [], document.media_type, _head(document)) if document else None
    return wanted.type.preview(wanted.params, handed)


def _head(document: Document) -> bytes:
    """The first bytes of a document, which is new, or was read without its content."""
    if "content" not in inspect(document).unloaded:
        return (document.content or b"")[:HEAD]
    with read_connection() as connection:
        return bytes(connection.scalar(select(func.substr(Document.content, 1, HEAD)).where(Document.id == document.id)) or b"")


def automatic(document: Document, asked: list[JobSpec]) -> list[JobSpec]:
    """The jobs that a document of its kind gets by being submitted. One that is asked for anyway is as it was asked for."""
    given = {one.type.name for one in asked}
    found = []
    for one in registry.discover().values():
        rule = one.automatic
        if rule and document.kind in rule.kinds and one.name not in given and not one.unavailable_reason:
            found.append(JobSpec(one, one.load_params({}, has_document=True), rule.priority, rule.delay))
    return found


def want(spec: Any, user: User, *, has_document: bool, pointer: str) -> JobSpec:
    """One job that the user asks for, validated. Raises `Invalid` naming the field."""
    spec = {"type": spec} if isinstance(spec, str) else spec
    if not isinstance(spec, dict) or set(spec) - {"type", "params", "priority", "delay", "unique"}:
        raise Invalid.field(pointer, "Give the name of a job type, or an object of type, params, priority, delay and unique.")
    job_type = _job_type(spec.get("type"), user, pointer)
    params = job_type.load_params(spec.get("params"), has_document, f"{pointer}/params")
    for name in () if user.is_admin else for_admins(job_type):
        if params.get(name) is not None:
            raise Invalid.field(f"{pointer}/params/{name}", f"Only admins can set {name}. Leave it out.")
    is_unique = unique(spec.get("unique"), pointer)
    return JobSpec(job_type, params, priority(spec.get("priority"), pointer), delay(spec.get("delay"), pointer), is_unique=is_unique)


@cache
def for_admins(job_type: registry.JobType) -> list[str]:
    """The params that only admins may give: those whose field says `x-for-admins`."""
    return [name for name, one in job_type.params().fields.items() if one.metadata.get("x-for-admins")]


def _job_type(name: Any, user: User, pointer: str) -> registry.JobType:
    job_type = registry.find(name, f"{pointer}/type", user=user)
    if reason := job_type.unavailable_reason:
        raise Invalid.field(f"{pointer}/type", f"{job_type.name} is not available here: {reason}")
    return job_type


def priority(given: Any, pointer: str = "") -> str:
    """The priority's name; 1-3 is low, 4-6 normal, 7-9 high, 10 critical, none normal."""
    if given is None:
        return "normal"
    if isinstance(given, str) and given in PRIORITIES:
        return given
    number = int(given) if isinstance(given, str) and given.isascii() and given.isdigit() else given
    if isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= 10:
        return "low" if number <= 3 else "normal" if number <= 6 else "high" if number <= 9 else "critical"
    raise Invalid.field(
        f"{pointer}/priority", f"{str(given)[:40]!r} is not a priority. Use critical, high, normal or low, or a number from 1 to 10."
    )


def delay(given: Any, pointer: str = "") -> float:
    """Seconds to wait before the job is queued."""
    if given is None:
        return 0.0
    if isinstance(given, int | float) and not isinstance(given, bool) and 0 <= given <= MAX_DELAY_S:
        return float(given)
    raise Invalid.field(f"{pointer}/delay", f"{str(given)[:40]!r} is not a delay. Give seconds, from 0 to {MAX_DELAY_S} (30 days).")


def unique(given: Any, pointer: str = "") -> bool:
    """Whether a job of the same content that waits or runs will do."""
    if given is None or isinstance(given, bool):
        return bool(given)
    raise Invalid.field(f"{pointer}/unique", f"{str(given)[:40]!r} is neither true nor false.")

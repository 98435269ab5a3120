"""A job for one document: what makes it the same work as another, what can be said of it at once, and what is automatic."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import replace
from typing import Any

from sqlalchemy import func, inspect, select

from monolith.database import looking
from monolith.models import Document, User, new_id
from monolith.runner import registry
from monolith.runner.accepting import Wanted
from monolith.runner.contract import HEAD, Handed

SAME_WORK = uuid.UUID("5d6b5a3e-4a0e-5f0a-9c51-6f1c2f7f9c11")  # the namespace of ids that are made from what is to be done


def aimed(wanted: Wanted, user: User, document: Document | None) -> Wanted:
    """The job for this document, or for none. A page that is not fetched yet has no content, and is like itself only."""
    content = (document.sha256 or document.id) if document else None
    return replace(
        wanted,
        id=_id(wanted, user, document, content),
        document_id=document.id if document else None,
        content_key=hashlib.sha256(_said(user.id, wanted.type.name, wanted.params, content)).hexdigest(),
        preview=_preview(wanted, document),
    )


def _id(wanted: Wanted, user: User, document: Document | None, content: str | None) -> str:
    """A new id; the same again for the same work, and another for each owner's."""
    if wanted.type.identity is None:
        return new_id()
    about = [document.title, document.tags or []] if document else []
    return str(uuid.uuid5(SAME_WORK, _said(user.id, wanted.type.name, wanted.type.identity(wanted.params), content, about).decode()))


def _said(*what: Any) -> bytes:
    return json.dumps(what, sort_keys=True, default=str).encode()


def _preview(wanted: Wanted, document: Document | None) -> dict[str, Any] | None:
    if wanted.type.at_once is None:
        return None
    handed = Handed(document.title, document.tags or [], document.media_type, _head(document)) if document else None
    return wanted.type.at_once(wanted.params, handed)


def _head(document: Document) -> bytes:
    """The first bytes of a document, which is new, or was read without its content."""
    if "content" not in inspect(document).unloaded:
        return (document.content or b"")[:HEAD]
    with looking() as connection:
        return bytes(connection.scalar(select(func.substr(Document.content, 1, HEAD)).where(Document.id == document.id)) or b"")


def automatic(document: Document, asked: list[Wanted]) -> list[Wanted]:
    """The jobs that a document of its kind gets by being submitted. One that is asked for anyway is as it was asked for."""
    given = {one.type.name for one in asked}
    found = []
    for one in registry.discover().values():
        rule = one.automatic
        if rule and document.kind in rule.kinds and one.name not in given and not one.unavailable_reason:
            found.append(Wanted(one, one.load_params({}, has_document=True), rule.priority, rule.delay))
    return found

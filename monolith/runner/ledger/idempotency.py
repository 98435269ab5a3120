"""Idempotency keys: a request that is sent again with the same key gets the same answer and creates nothing new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, tuple_
from sqlalchemy.orm import Session

from monolith.db.engine import now, read_connection, unlocked
from monolith.db.models import IdempotencyKey
from monolith.errors import Invalid

KEPT_S = 24 * 3600

_insert = insert(IdempotencyKey.metadata.tables[IdempotencyKey.__tablename__])
_by_key = select(IdempotencyKey.fingerprint, IdempotencyKey.ids).where(
    IdempotencyKey.owner_id == bindparam("owner_id"), IdempotencyKey.key == bindparam("key")
)


@dataclass(frozen=True)
class Key:
    """The key that a user gave to a request, and the fingerprint of the request's content."""

    text: str
    fingerprint: str

    def keep(self, connection: Connection, owner_id: int, ids: dict[str, Any]) -> None:
        """Store the key, in the transaction that creates the rows of these `ids`. Raises IntegrityError when it is stored already."""
        connection.execute(_insert, {"owner_id": owner_id, "key": self.text, "fingerprint": self.fingerprint, "ids": ids})


def find(owner_id: int, key: Key) -> dict[str, Any] | None:
    """The ids of what this request created earlier; None when it is new. Raises `Invalid` when the key belongs to another request."""
    with read_connection() as connection:
        row = connection.execute(_by_key, {"owner_id": owner_id, "key": key.text}).one_or_none()
    if row is None:
        return None
    if row.fingerprint != key.fingerprint:
        detail = "This Idempotency-Key was already used for a different request. Use a new key, or repeat the original request."
        raise Invalid.field("/Idempotency-Key", detail)
    ids: dict[str, Any] = row.ids
    return ids


def forget_old(session: Session, older_than_s: float = KEPT_S) -> int:
    """Delete the keys older than so many seconds; returns how many. Called by the clock."""
    old = select(IdempotencyKey.owner_id, IdempotencyKey.key).where(IdempotencyKey.created_at < now() - older_than_s)
    mine = tuple_(IdempotencyKey.owner_id, IdempotencyKey.key)
    return len(session.scalars(delete(IdempotencyKey).where(mine.in_(unlocked(old))).returning(IdempotencyKey.key)).all())

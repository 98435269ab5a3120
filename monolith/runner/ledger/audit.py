"""The audit trail: who did what, on what, to how many, from where, and what it was before and after.

Append-only: the database itself refuses to change or delete a row.
"""

from __future__ import annotations

import getpass
import socket
from dataclasses import dataclass
from typing import Any

from sqlalchemy import JSON, BigInteger, Index, Integer, String, insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from monolith.db.engine import now, storable
from monolith.db.models import Base


@dataclass(frozen=True)
class Actor:
    """Who acts, and from where: a person by the web or at the command line, or Intray itself."""

    name: str
    address: str | None = None
    request_id: str | None = None


def at_command_line() -> Actor:
    """Whoever runs this process, by the names that the machine has for them and for itself."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        name = "somebody"
    return Actor(f"{name} (command line)", socket.gethostname()[:64])


class AuditEntry(Base):
    """One act. `before` and `after` hold what it changed, never a secret."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    at: Mapped[float] = mapped_column(default=now())
    actor: Mapped[str] = mapped_column(String(254))
    act: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(200))
    count: Mapped[int | None]
    address: Mapped[str | None] = mapped_column(String(64))
    request_id: Mapped[str | None] = mapped_column(String(64))
    before: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    after: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))

    __table_args__ = (Index("audit_by_age", "at"), {"sqlite_autoincrement": True})


def record(
    session: Session,
    by: Actor,
    act: str,
    subject: str,
    *,
    count: int | None = None,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Write the act down in the transaction that does it."""
    told = {"count": count, "address": by.address, "request_id": by.request_id, "before": before, "after": after}
    session.execute(insert(AuditEntry).values(actor=by.name[:254], act=act, subject=storable(subject, 200), **told))

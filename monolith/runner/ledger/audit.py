"""The audit log: who did what to what, how many jobs it changed, from where, and the values before and after.

Append-only: triggers of the database refuse to change or delete a row.
"""

from __future__ import annotations

import getpass
import socket
from dataclasses import dataclass
from typing import Any

from sqlalchemy import JSON, BigInteger, Connection, Index, Integer, String, insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from monolith.db.engine import now, storable
from monolith.db.models import Base


@dataclass(frozen=True)
class Actor:
    """Who acts, and from where: a person in the browser, by the API or at the command line, or Intray itself."""

    name: str
    address: str | None = None
    request_id: str | None = None


def at_command_line() -> Actor:
    """The user who runs this process, and the name of the host as the address."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        name = "somebody"
    return Actor(f"{name} (command line)", socket.gethostname()[:64])


class AuditEntry(Base):
    """One action. `before` and `after` hold what it changed, never a secret."""

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
    session: Session | Connection,
    by: Actor,
    act: str,
    subject: str,
    *,
    count: int | None = None,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Add an entry, in the transaction of the action itself. `count`: how many jobs it changed."""
    values = {"count": count, "address": by.address, "request_id": by.request_id, "before": before, "after": after}
    session.execute(insert(AuditEntry).values(actor=by.name[:254], act=act, subject=storable(subject, 200), **values))

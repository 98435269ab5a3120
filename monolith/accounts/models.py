"""The tables of sessions and of counted login attempts. Times are seconds since 1970 by the database's clock."""

from __future__ import annotations

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from monolith.db.engine import now
from monolith.db.models import Base, new_id


class UserSession(Base):
    """A signed-in browser. `hash` is the SHA-256 of the secret in its cookie; the secret itself is not stored."""

    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    address: Mapped[str] = mapped_column(String(45))
    user_agent: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[float] = mapped_column(default=now())
    last_used_at: Mapped[float] = mapped_column(default=now(), index=True)


class LoginAttempts(Base):
    """How often an action was attempted. `name` is a hash, because people type passwords where their e-mail belongs."""

    __tablename__ = "login_attempts"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    count: Mapped[int]
    began_at: Mapped[float]
    retry_at: Mapped[float] = mapped_column(index=True)  # no attempt is allowed before

"""Sessions: one row for each signed-in browser, so that a session can be listed, ended from elsewhere, and expires.

The cookie holds 256 random bits, the row their hash. Each sign-in and each change of the password creates a new session.
"""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import bindparam, delete, or_, select, update
from sqlalchemy.orm import Session

from monolith.accounts.models import UserSession
from monolith.accounts.tokens import hash_of, user_from
from monolith.config import settings
from monolith.db.engine import PreparedStatement, now, read_session, storable, unlocked, write_session, write_unless_locked
from monolith.db.models import User
from monolith.errors import NotFound

USED_EVERY_S = 60.0  # the last use is recorded at most this often
# A time in the future, from before the database's clock was set back, would keep the session alive.
_is_stale = or_(UserSession.last_used_at < now() - USED_EVERY_S, UserSession.last_used_at > now()).label("is_stale")
_living = select(UserSession.id.label("session_id"), _is_stale, *User.__table__.c).join(User, User.id == UserSession.user_id)
_by_hash = PreparedStatement(
    _living.where(
        UserSession.hash == bindparam("hash"),
        UserSession.last_used_at > now() - bindparam("idle_s"),
        UserSession.created_at > now() - bindparam("longest_s"),
    )
)


def begin(user_id: int, address: str, user_agent: str) -> str:
    """Create a session for a browser and return the secret for its cookie. Deletes all expired sessions."""
    with write_session() as session:
        expired = unlocked(select(UserSession.id).where(or_(*_expired())))
        session.execute(delete(UserSession).where(UserSession.id.in_(expired)))
        return _begin(session, user_id, address, user_agent)


def _begin(session: Session, user_id: int, address: str, user_agent: str) -> str:
    secret = secrets.token_urlsafe(32)
    session.add(UserSession(user_id=user_id, hash=hash_of(secret), address=address[:45], user_agent=storable(user_agent, 200)))
    return secret


def _expired() -> tuple[Any, Any]:
    idle_s, longest_s = _limits().values()
    return UserSession.last_used_at <= now() - idle_s, UserSession.created_at <= now() - longest_s


def _limits() -> dict[str, float]:
    return {"idle_s": settings().session_idle_hours * 3600, "longest_s": settings().session_days * 24 * 3600}


def user_of_session(secret: str) -> tuple[str, User] | None:
    """The session id and the user for the secret of a cookie; None when the session has ended or expired."""
    found = _by_hash.run(hash=hash_of(secret), **_limits())
    if not found:
        return None
    session_id, is_stale, *columns = found[0]
    if is_stale:
        write_unless_locked(update(UserSession).where(UserSession.id == session_id).values(last_used_at=now()))
    return session_id, user_from(columns)


def sessions_of(user: User) -> list[UserSession]:
    """The user's sessions that have not expired, last used first."""
    with read_session() as session:
        mine = select(UserSession).where(UserSession.user_id == user.id, *(~one for one in _expired()))
        return list(session.scalars(mine.order_by(UserSession.last_used_at.desc())))


def end(user: User, session_id: str) -> None:
    """End one of the user's sessions. Raises `NotFound` for a session that is not theirs."""
    with write_session() as session:
        mine = delete(UserSession).where(UserSession.id == session_id, UserSession.user_id == user.id)
        if session.scalar(mine.returning(UserSession.id)) is None:
            raise NotFound(f"You have no session {session_id[:60]!r}. It may already have ended.")


def end_others(user: User, session_id: str | None) -> int:
    """End all sessions of the user except this one (None: all), and return their number."""
    with write_session() as session:
        others = delete(UserSession).where(UserSession.user_id == user.id, UserSession.id != (session_id or ""))
        return len(session.scalars(others.returning(UserSession.id)).all())


def replace_all(session: Session, user_id: int, address: str, user_agent: str) -> str:
    """End all sessions of the user, create one for this browser, and return the secret for its cookie."""
    session.execute(delete(UserSession).where(UserSession.user_id == user_id))
    return _begin(session, user_id, address, user_agent)

"""Tokens for the API: made, recognised, revoked. Only a hash is stored; the prefix lets its owner recognise one."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, delete, func, or_, select, update

from monolith.db.engine import PreparedStatement, now, read_session, write_session
from monolith.db.models import SCOPES, Token, User
from monolith.errors import Conflict, Invalid, NotFound
from monolith.runner.ledger import audit
from monolith.runner.ledger.audit import Actor

USED_EVERY_S = 60  # a token's last use is written down at most this often
PREFIX = 13  # characters
MOST = 100  # of one user


def create_token(user_id: int, name: str, scope: str = "admin", days: float | None = None, by: Actor | None = None) -> tuple[Token, str]:
    """A new API token and its secret, which is shown once. `days`: when it runs out; never, when None.

    `by`: who makes it for somebody else, which is noted in the audit trail. Raises `Invalid`, and `Conflict` where the user has too many.
    """
    name = name.strip()
    if not 1 <= len(name) <= 100:
        raise Invalid.field("/name", "Give the token a name of 1 to 100 characters, such as what it is for.")
    if scope not in SCOPES:
        raise Invalid.field("/scope", f"Unknown scope {scope[:60]!r}. Use one of {', '.join(SCOPES)}.")
    secret = f"intray_{secrets.token_urlsafe(32)}"
    expires_at = None if days is None else now() + days * 24 * 3600.0
    token = Token(user_id=user_id, name=name, prefix=secret[:PREFIX], hash=hash_of(secret), scope=scope, expires_at=expires_at)
    with write_session() as session:
        if (session.scalar(select(func.count()).where(Token.user_id == user_id)) or 0) >= MOST:
            raise Conflict(f"You have {MOST} tokens, the maximum. Revoke one that you no longer use.")
        session.add(token)
        session.flush()
        session.refresh(token)
        if by:
            owner = session.scalar(select(User.email).where(User.id == user_id)) or ""
            audit.record(session, by, "token_created", owner, after={"name": name, "scope": scope, "prefix": token.prefix})
    return token, secret


_is_stale = or_(Token.last_used_at.is_(None), Token.last_used_at < now() - USED_EVERY_S).label("is_stale")
_known = select(Token.id.label("token_id"), Token.hash, Token.scope, _is_stale, *User.__table__.c).join(User)
_by_hash = PreparedStatement(_known.where(Token.hash == bindparam("hash"), or_(Token.expires_at.is_(None), Token.expires_at > now())))


def user_of_token(secret: str) -> tuple[User, str] | None:
    """Whose token this is, and its scope. Asked for with every call of the API, and so with one statement that stands ready.

    It is found by its hash: how long that takes says nothing of the secret. With a token of a lower scope nobody is an admin; one
    that reads makes an admin a viewer.
    """
    wanted = hash_of(secret)
    found = _by_hash.run(hash=wanted)
    if not found or not hmac.compare_digest(found[0][1], wanted):
        return None
    token_id, _, scope, is_stale, *columns = found[0]
    if is_stale:
        with write_session() as session:
            session.execute(update(Token).where(Token.id == token_id).values(last_used_at=now()))
    user = user_from(columns)
    user.is_admin, user.is_viewer = user.is_admin and scope == "admin", user.is_viewer or (user.is_admin and scope == "read")
    return user, scope


def user_from(columns: Sequence[Any]) -> User:
    """The user of a row that was read in the order of the table's columns."""
    return User(**dict(zip(User.__table__.c.keys(), columns, strict=True)))


def tokens_of(user: User) -> list[Token]:
    with read_session() as session:
        return list(session.scalars(select(Token).where(Token.user_id == user.id).order_by(Token.created_at.desc())))


def revoke_token(user: User, token_id: str) -> None:
    """Raises `NotFound` for a token that is not the user's."""
    with write_session() as session:
        revoked = session.scalar(delete(Token).where(Token.id == token_id, Token.user_id == user.id).returning(Token.id))
        if revoked is None:
            raise NotFound(f"You have no token {token_id[:60]!r}.")


def hash_of(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()

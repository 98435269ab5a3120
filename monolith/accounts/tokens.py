"""API tokens: create, find and revoke them. Only a hash is stored, and a prefix by which the owner recognises a token."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, delete, func, or_, select, update
from sqlalchemy.orm.attributes import instance_dict

from monolith.db.engine import PreparedStatement, now, read_session, write_session, write_unless_locked
from monolith.db.models import SCOPES, Token, User
from monolith.errors import Conflict, Invalid, NotFound
from monolith.runner.ledger import audit
from monolith.runner.ledger.audit import Actor

USED_EVERY_S = 60  # the last use is recorded at most this often
PREFIX = 13  # characters
MAX_TOKENS = 100  # of one user
_USER_COLUMNS = User.__table__.c.keys()


def create_token(user_id: int, name: str, scope: str = "admin", days: float | None = None, by: Actor | None = None) -> tuple[Token, str]:
    """Create an API token; returns it with its secret, which is shown once. `days`: its lifetime; None for no expiry.

    `by`: who creates it for somebody else; that is recorded in the audit log. Raises `Invalid`, and `Conflict` for more than MAX_TOKENS.
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
        if (session.scalar(select(func.count()).where(Token.user_id == user_id)) or 0) >= MAX_TOKENS:
            raise Conflict(f"You have {MAX_TOKENS} tokens, the maximum. Revoke one that you no longer use.")
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
    """The user of a token and its scope; None for an unknown or expired token. One prepared statement, as every API request needs it.

    The lookup is by hash, so its timing reveals nothing about the secret. The user is an admin only with the scope `admin`; with the
    scope `read` an admin becomes a viewer.
    """
    token_hash = hash_of(secret)
    found = _by_hash.run(hash=token_hash)
    if not found or not hmac.compare_digest(found[0][1], token_hash):
        return None
    token_id, _, scope, is_stale, *columns = found[0]
    if is_stale:
        write_unless_locked(update(Token).where(Token.id == token_id).values(last_used_at=now()))
    user = user_from(columns)
    user.is_admin, user.is_viewer = user.is_admin and scope == "admin", user.is_viewer or (user.is_admin and scope == "read")
    return user, scope


def user_from(columns: Sequence[Any]) -> User:
    """A user from column values in the order of the table, written past the ORM, which would note each of them as a change."""
    user = User()
    instance_dict(user).update(zip(_USER_COLUMNS, columns, strict=True))
    return user


def tokens_of(user: User) -> list[Token]:
    """The user's tokens, newest first."""
    with read_session() as session:
        return list(session.scalars(select(Token).where(Token.user_id == user.id).order_by(Token.created_at.desc())))


def revoke_token(user: User, token_id: str) -> None:
    """Delete a token of the user. Raises `NotFound` for one that is not theirs."""
    with write_session() as session:
        revoked = session.scalar(delete(Token).where(Token.id == token_id, Token.user_id == user.id).returning(Token.id))
        if revoked is None:
            raise NotFound(f"You have no token {token_id[:60]!r}.")


def hash_of(secret: str) -> str:
    """The SHA-256 of a secret, in hex."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()

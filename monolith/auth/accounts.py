"""Users and their API tokens."""

from __future__ import annotations

import hashlib
import re
import secrets
from functools import cache

from sqlalchemy import bindparam, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from werkzeug.security import check_password_hash, generate_password_hash

from monolith.database import now, reading, writing
from monolith.errors import Invalid, NotFound
from monolith.models import Token, User
from monolith.prepared import Prepared

USED_EVERY_S = 60  # a token's last use is written down at most this often


def create_user(email: str, password: str, *, is_admin: bool = False, is_viewer: bool = False) -> User:
    """A new user. Raises `Invalid` for an e-mail that is none or taken, or an empty password."""
    email = email.strip().lower()
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", email) or len(email) > 254:
        raise Invalid.field("/email", f"{email[:60]!r} is no e-mail address. Write it as name@host.")
    if not password:
        raise Invalid.field("/password", "The password is empty. Choose one.")
    user = User(email=email, password_hash=generate_password_hash(password), is_admin=is_admin, is_viewer=is_viewer)
    try:
        with writing() as session:
            session.add(user)
    except IntegrityError:
        raise Invalid.field("/email", f"There is a user {email} already. Choose another e-mail address.") from None
    return user


def find_user(email: str) -> User | None:
    with reading() as session:
        return session.scalar(select(User).where(User.email == email.strip().lower()))


def user_by_id(user_id: str) -> User | None:
    with reading() as session:
        return session.get(User, int(user_id)) if user_id.isascii() and user_id.isdigit() else None


def has_users() -> bool:
    with reading() as session:
        return bool(session.scalar(select(func.count()).select_from(User)))


def check_password(email: str, password: str) -> User | None:
    """The user, when the password is theirs. As slow for an unknown e-mail as for a wrong password."""
    user = find_user(email)
    fits = check_password_hash(user.password_hash if user else _nobody(), password)
    return user if fits else None


@cache
def _nobody() -> str:
    """A hash that no password fits, for accounts that are not there."""
    return generate_password_hash(secrets.token_hex(16))


def create_token(user_id: int, name: str) -> tuple[Token, str]:
    """A new API token and its secret, which is shown once: only its hash is stored."""
    name = name.strip()
    if not 1 <= len(name) <= 100:
        raise Invalid.field("/name", "Give the token a name of 1 to 100 characters, such as what uses it.")
    secret = f"intray_{secrets.token_urlsafe(32)}"
    token = Token(user_id=user_id, name=name, prefix=secret[:13], hash=_hash(secret))
    with writing() as session:
        session.add(token)
    return token, secret


_is_stale = or_(Token.last_used_at.is_(None), Token.last_used_at < now() - USED_EVERY_S).label("is_stale")
_by_hash = Prepared(select(Token.id.label("token_id"), _is_stale, *User.__table__.c).join(User).where(Token.hash == bindparam("hash")))


def user_of_token(secret: str) -> User | None:
    """The user whose token this is. Asked for with every call of the API, and so with one statement that stands ready."""
    found = _by_hash.run(hash=_hash(secret))
    if not found:
        return None
    token_id, is_stale, *columns = found[0]
    if is_stale:
        with writing() as session:
            session.execute(update(Token).where(Token.id == token_id).values(last_used_at=now()))
    return User(**dict(zip(User.__table__.c.keys(), columns, strict=True)))


def tokens_of(user: User) -> list[Token]:
    with reading() as session:
        return list(session.scalars(select(Token).where(Token.user_id == user.id).order_by(Token.created_at.desc())))


def revoke_token(user: User, token_id: str) -> None:
    """Raises `NotFound` for a token that is not the user's."""
    with writing() as session:
        revoked = session.scalar(delete(Token).where(Token.id == token_id, Token.user_id == user.id).returning(Token.id))
        if revoked is None:
            raise NotFound(f"You have no token {token_id[:60]!r}.")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()

"""Users: create and find them, check and change passwords."""

from __future__ import annotations

import re

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError

from monolith.accounts import login_throttle, passwords, sessions
from monolith.db.engine import now, read_session, write_session
from monolith.db.models import User
from monolith.errors import Invalid
from monolith.runner.ledger import audit
from monolith.runner.ledger.audit import Actor

SIGN_IN = "sign in to"  # the name under which password attempts are counted


def create_user(email: str, password: str, by: Actor, *, is_admin: bool = False, is_viewer: bool = False) -> User:
    """Create a user and record it in the audit log. Raises `Invalid` for an invalid or existing e-mail address, or a weak password."""
    email = _canonical(email)
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", email) or len(email) > 254:
        raise Invalid.field("/email", f"{email[:60]!r} is not an e-mail address. Write it as name@host.")
    user = User(email=email, password_hash=passwords.hashed(password, email), is_admin=is_admin, is_viewer=is_viewer)
    try:
        with write_session() as session:
            session.add(user)
            audit.record(session, by, "user_created", email, after={"is_admin": is_admin, "is_viewer": is_viewer})
    except IntegrityError:
        raise Invalid.field("/email", f"A user {email} already exists. Use another e-mail address.") from None
    return user


def find_user(email: str) -> User | None:
    """The user with this e-mail address, in any case."""
    with read_session() as session:
        return session.scalar(select(User).where(User.email == _canonical(email)))


def _canonical(email: str) -> str:
    return email.strip().lower()


def has_users() -> bool:
    """Whether any user exists."""
    with read_session() as session:
        return bool(session.scalar(select(func.count()).select_from(User)))


def check_password(email: str, password: str) -> User | None:
    """The user if the password is correct, else None. Unknown e-mail addresses take the same time and have the same waits.

    Raises `TooManyRequests` after too many wrong passwords.
    """
    email = _canonical(email)[:254]
    login_throttle.begin(SIGN_IN, email)
    user = find_user(email)
    if not passwords.is_correct(password, user.password_hash if user else None):
        return None
    login_throttle.succeeded(SIGN_IN, email)
    return user


def change_password(user: User, current: str, new: str, address: str, user_agent: str) -> str:
    """Set a new password, end all sessions, and return the secret of a new session for the browser that asked.

    Raises `Invalid` when the current password is wrong or the new one too weak, and `TooManyRequests` as `check_password` does.
    """
    password_hash = passwords.hashed(new, user.email, "/new")
    if check_password(user.email, current) is None:
        raise Invalid.field("/current", "This is not your current password. Enter the one you signed in with.")
    with write_session() as session:
        session.execute(update(User).where(User.id == user.id).values(password_hash=password_hash))
        return sessions.replace_all(session, user.id, address, user_agent)


def reset_password(user: User, new: str, by: Actor) -> None:
    """Set a new password for a user, end all their sessions, and record it in the audit log. Raises `Invalid` for a weak one."""
    password_hash = passwords.hashed(new, user.email)
    with write_session() as session:
        session.execute(update(User).where(User.id == user.id).values(password_hash=password_hash))
        audit.record(session, by, "password_reset", user.email)
    sessions.end_others(user, None)


def choose_mail(user: User, *, failed: bool, done: bool) -> User:
    """Set whether the user gets an e-mail for each job that fails or is done, from now on; returns the changed user."""
    chosen = update(User).where(User.id == user.id).values(mail_failed=failed, mail_done=done, mail_since=now())
    with write_session() as session:
        session.execute(chosen)
    user.mail_failed, user.mail_done = failed, done
    return user

"""Users: making them, signing them in, changing their password."""

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

SIGN_IN = "sign in to"  # what tries of passwords are counted under


def create_user(email: str, password: str, by: Actor, *, is_admin: bool = False, is_viewer: bool = False) -> User:
    """A new user, with a note in the audit trail. Raises `Invalid` for an e-mail that is none or taken, or a password that is too weak."""
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
    with read_session() as session:
        return session.scalar(select(User).where(User.email == _canonical(email)))


def _canonical(email: str) -> str:
    return email.strip().lower()


def has_users() -> bool:
    with read_session() as session:
        return bool(session.scalar(select(func.count()).select_from(User)))


def check_password(email: str, password: str) -> User | None:
    """The user, when the password is theirs. Words, time and waits are the same for an unknown e-mail as for a wrong password.

    Raises `TooManyRequests` where too many were wrong of late.
    """
    email = _canonical(email)[:254]
    login_throttle.begin(SIGN_IN, email)
    user = find_user(email)
    if not passwords.fits(password, user.password_hash if user else None):
        return None
    login_throttle.succeeded(SIGN_IN, email)
    return user


def change_password(user: User, current: str, new: str, address: str, user_agent: str) -> str:
    """Set a new password and end all sessions; what the cookie of the browser that did it is to hold from now on.

    Raises `Invalid` where the current one is wrong or the new one too weak, `TooManyRequests` as `check_password` does.
    """
    password_hash = passwords.hashed(new, user.email, "/new")
    if check_password(user.email, current) is None:
        raise Invalid.field("/current", "This is not your current password. Enter the one you signed in with.")
    with write_session() as session:
        session.execute(update(User).where(User.id == user.id).values(password_hash=password_hash))
        return sessions.replace_all(session, user.id, address, user_agent)


def reset_password(user: User, new: str, by: Actor) -> None:
    """Set a new password for somebody who has forgotten theirs, end all their sessions, and note it in the audit trail."""
    password_hash = passwords.hashed(new, user.email)
    with write_session() as session:
        session.execute(update(User).where(User.id == user.id).values(password_hash=password_hash))
        audit.record(session, by, "password_reset", user.email)
    sessions.end_others(user, None)


def choose_mail(user: User, *, failed: bool, done: bool) -> User:
    """Whether the user gets an e-mail for each job that fails, and for each that is done, from now on; the user as it is then."""
    chosen = update(User).where(User.id == user.id).values(mail_failed=failed, mail_done=done, mail_since=now())
    with write_session() as session:
        session.execute(chosen)
    user.mail_failed, user.mail_done = failed, done
    return user

"""Checks and hashes passwords. As NIST SP 800-63B recommends, length and guessability count, not kinds of characters."""

from __future__ import annotations

import re
import secrets
from functools import cache

from werkzeug.security import check_password_hash, generate_password_hash

from monolith.errors import Invalid

SHORTEST, LONGEST = 12, 256  # characters
CHECKED = 72  # characters whose guessability is estimated; more would take long
MIN_SCORE = 3  # of 4 in zxcvbn: more than 10^8 guesses


def hashed(password: str, email: str, pointer: str = "/password") -> str:
    """The scrypt hash of a password. Raises `Invalid` for the field `pointer` when it is too short, too long or easy to guess."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise Invalid.field(
            pointer, f"A password must have {SHORTEST} to {LONGEST} characters. Choose another, such as four unrelated words."
        )
    if _is_guessable(password, email):
        raise Invalid.field(pointer, "This password is too easy to guess. Choose another, such as four unrelated words.")
    return generate_password_hash(password)


def _is_guessable(password: str, email: str) -> bool:
    """Compares with 30,000 common passwords, 64,000 words and names, and their usual variations. Slow to load, so imported here."""
    from zxcvbn import zxcvbn

    known = ["intray", email, *re.split(r"\W+", email)]
    return bool(zxcvbn(password[:CHECKED], user_inputs=known)["score"] < MIN_SCORE)


def is_correct(password: str, password_hash: str | None) -> bool:
    """Whether the password has this hash. None takes the same time: response times must not reveal whether an account exists."""
    return check_password_hash(password_hash or _unmatched_hash(), password[: LONGEST + 1])


@cache
def _unmatched_hash() -> str:
    """The hash of a random password, for accounts that do not exist."""
    return generate_password_hash(secrets.token_hex(16))

"""Which passwords are good enough, and how they are kept: as NIST SP 800-63B has it, by length and by how soon they are guessed."""

from __future__ import annotations

import re
import secrets
from functools import cache

from werkzeug.security import check_password_hash, generate_password_hash

from monolith.errors import Invalid

SHORTEST, LONGEST = 12, 256  # characters
LOOKED_AT = 72  # characters: more are not looked at to find out how soon it is guessed, which would take long
GOOD = 3  # of 4, as zxcvbn counts: over 10^8 guesses


def hashed(password: str, email: str, pointer: str = "/password") -> str:
    """What is stored of a password: scrypt. Raises `Invalid`, naming the field, for one that is too short or soon guessed."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise Invalid.field(
            pointer, f"A password must have {SHORTEST} to {LONGEST} characters. Choose another, such as four unrelated words."
        )
    if _is_soon_guessed(password, email):
        raise Invalid.field(pointer, "This password is too easy to guess. Choose another, such as four unrelated words.")
    return generate_password_hash(password)


def _is_soon_guessed(password: str, email: str) -> bool:
    """Against 30,000 common passwords, 64,000 words and names, and the patterns people make of them. Slow, and loaded when it is needed."""
    from zxcvbn import zxcvbn

    known = ["intray", email, *re.split(r"\W+", email)]
    return bool(zxcvbn(password[:LOOKED_AT], user_inputs=known)["score"] < GOOD)


def fits(password: str, password_hash: str | None) -> bool:
    """Whether it is the password of this hash. As slow for an account that is not there."""
    return check_password_hash(password_hash or _nobody(), password[: LONGEST + 1])


@cache
def _nobody() -> str:
    """A hash that no password fits, for accounts that are not there."""
    return generate_password_hash(secrets.token_hex(16))

"""Signing secrets, encrypted for the database with a key derived from `SECRET_KEY`, so that a stolen backup is useless."""

from __future__ import annotations

import base64
import hashlib
import secrets

from cryptography.fernet import Fernet, InvalidToken

from monolith.config import settings
from monolith.errors import Conflict

PREFIX = "whsec_"


def new_secret() -> str:
    """A secret of 256 random bits in the format of Standard Webhooks."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def seal(secret: str) -> str:
    """The secret, encrypted."""
    return _box().encrypt(secret.encode()).decode()


def unseal(sealed: str) -> str:
    """The secret, decrypted. Raises `Conflict` if `SECRET_KEY` has changed."""
    try:
        return _box().decrypt(sealed.encode()).decode()
    except InvalidToken:
        raise Conflict("SECRET_KEY has changed since this webhook's secret was created. Rotate the secret.") from None


def _box() -> Fernet:
    """A key for this purpose only; sessions are signed with another one."""
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"webhook secrets\0" + settings().secret_key.encode()).digest()))

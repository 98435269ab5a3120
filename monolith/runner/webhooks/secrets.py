"""Signing secrets: made, and sealed for the database with a key from `SECRET_KEY`, so that a stolen backup signs nothing."""

from __future__ import annotations

import base64
import hashlib
import secrets

from cryptography.fernet import Fernet, InvalidToken

from monolith.config import settings
from monolith.errors import Conflict

PREFIX = "whsec_"


def new_secret() -> str:
    """256 random bits, as Standard Webhooks writes them."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def seal(secret: str) -> str:
    return _box().encrypt(secret.encode()).decode()


def unseal(sealed: str) -> str:
    """Raises `Conflict` when `SECRET_KEY` is another than it was sealed with."""
    try:
        return _box().decrypt(sealed.encode()).decode()
    except InvalidToken:
        raise Conflict("SECRET_KEY has changed since this webhook's secret was created. Rotate the secret.") from None


def _box() -> Fernet:
    """The key is for this alone: what signs sessions is another."""
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"webhook secrets\0" + settings().secret_key.encode()).digest()))

"""Somebody who calls the API with a token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from monolith.db.models import User


@dataclass
class Caller:
    """Somebody who calls the API with a token."""

    client: FlaskClient
    user: User
    token: str

    def __getattr__(self, method: str) -> Callable[..., TestResponse]:
        def call(path: str, *, headers: dict[str, str] | None = None, **options: Any) -> TestResponse:
            given = {"Authorization": f"Bearer {self.token}", **(headers or {})}
            return getattr(self.client, method)(path, headers=given, **options)

        return call

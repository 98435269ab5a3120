"""Somebody with a browser, as the pages see one: a cookie, and forms with their hidden token."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

PASSWORD = "a long password"


@dataclass
class Visitor:
    client: FlaskClient
    base_url: str = "http://localhost"

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.client.get(path, base_url=self.base_url, **options)

    def post(self, path: str, data: dict[str, Any] | None = None, **options: Any) -> TestResponse:
        """Send a form as the page would."""
        return self.client.post(path, base_url=self.base_url, data={**(data or {}), "csrf_token": self.csrf_token()}, **options)

    def csrf_token(self) -> str:
        page = self.get("/sign-in", follow_redirects=True).text
        found = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)
        assert found, page
        return found[1]

    def sign_in(self, email: str = "alice@example.org", password: str = PASSWORD, **options: Any) -> TestResponse:
        return self.post("/sign-in", {"email": email, "password": password}, **options)

    def is_signed_in(self) -> bool:
        return self.get("/api/v1/me").status_code == 200


def visitor(app: Flask, base_url: str = "http://localhost", **environment: str) -> Visitor:
    client = app.test_client()
    client.environ_base.update(environment)
    return Visitor(client, base_url)


def signed_in(app: Flask, email: str = "alice@example.org", **environment: str) -> Visitor:
    one = visitor(app, **environment)
    assert one.sign_in(email).status_code == 303
    return one

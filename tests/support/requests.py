"""What tests of the API send, and how they read a refusal."""

from __future__ import annotations

import io
from typing import Any


def upload(*files: tuple[bytes, str], **fields: Any) -> dict[str, Any]:
    return {"file": [(io.BytesIO(content), name) for content, name in files], **fields}


def pointers(response: Any) -> list[str]:
    assert response.content_type == "application/problem+json", response.text
    problem = response.json
    assert {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"} <= set(problem)
    assert all(error["detail"] for error in problem["errors"])
    return [error["pointer"] for error in problem["errors"]]

"""Projects run by hand, without an installation."""

from __future__ import annotations

import json
from typing import Any

from jobs import build


class HandJob:
    """A job that a test runs by hand."""

    id, document = "by-hand", None

    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, percent: float | None, note: str) -> None:
        self.notes.append(note)

    def attach(self, name: str, content: bytes, media_type: str) -> None:
        raise AssertionError(f"nothing is to be kept, and {name} is")


def run(*steps: str) -> dict[str, Any]:
    toml = f"[build]\ncommands = {json.dumps(steps)}\n"
    return build.build(HandJob(), {"files": {"intray.toml": toml}})

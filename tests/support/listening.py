"""What a stream of server-sent events says, as a browser would take it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from werkzeug.test import TestResponse


class Event(NamedTuple):
    id: str | None
    name: str
    data: dict[str, Any]


def events(chunks: Iterable[bytes]) -> Iterator[Event]:
    """The events, each as soon as it is whole. Comments are passed over."""
    waiting = b""
    for chunk in chunks:
        waiting += chunk
        *whole, waiting = waiting.split(b"\n\n")
        for block in whole:
            fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if not line.startswith(":"))
            if "event" in fields:
                yield Event(fields.get("id"), fields["event"], json.loads(fields["data"]))


def heard(response: TestResponse) -> Iterator[Event]:
    """The events of an answer to Flask's test client."""
    assert (response.status_code, response.mimetype) == (200, "text/event-stream"), response.text
    return events(response.iter_encoded())

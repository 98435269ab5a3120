"""What schemathesis cannot know: ids of what is there, for half of the paths; and the token it asks with must outlive the asking."""

from __future__ import annotations

import json
import os
import zlib
from typing import Any

import schemathesis

KNOWN = json.loads(os.environ["CONTRACT_IDS"])
OWN_TOKEN = KNOWN.pop("token_id")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    asked = case.path_parameters or {}
    for name, value in asked.items():
        if value == OWN_TOKEN:
            asked[name] = "another"
        elif name in KNOWN and zlib.crc32(repr(sorted(asked.items())).encode()) % 2 and not _is_an_id(value):
            asked[name] = KNOWN[name]


@schemathesis.hook
def filter_query(context: Any, query: Any) -> bool:
    """An address that is longer than a server takes is answered by gunicorn, in words of its own."""
    return len(str(query)) < 1000


def _is_an_id(value: Any) -> bool:
    """One that an earlier answer named."""
    return isinstance(value, str) and len(value) == 36 and value.count("-") == 4

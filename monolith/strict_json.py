"""Strict JSON: parsing of untrusted input, so that no accepted value fails later, and writing that no parser refuses.

Refused on input: nesting deeper than 32 (CPython's parser would raise RecursionError), NaN and Infinity, duplicate keys, numbers too
large for a database, and NUL or lone surrogates in strings (PostgreSQL and UTF-8 cannot hold them).
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # what PostgreSQL or UTF-8 refuses in a text: NUL, lone surrogates
MAX_DEPTH = 32
MAX_INTEGER = 2**63 - 1
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+"|([\[{])|([\]}])', re.DOTALL)


def dumps(value: Any, **options: Any) -> str:
    """The value as JSON, in which each float that JSON does not have (NaN, infinity) is null. For what is shown, sent or logged.

    One wrong number must not make the rest unreadable. What a job leaves is refused with a message instead, before it is stored.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        return json.dumps(finite(value), allow_nan=False, **options)


def finite(value: Any) -> Any:
    """The value with None in place of each float that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def loads(content: bytes) -> Any:
    """The parsed value, which can be stored. Raises ValueError with a reason that completes the sentence `... is not valid JSON: `."""
    _check_depth(content)
    value = json.loads(content.decode("utf-8"), parse_constant=_refuse, parse_int=_integer, parse_float=_float, object_pairs_hook=_object)
    if b"\\u" in content:  # only an escape can hide what neither UTF-8 nor JSON has in a string
        _check_texts(value)
    return value


def _check_depth(content: bytes) -> None:
    depth = 0
    for bracket in _BRACKETS.finditer(content):
        depth += 1 if bracket.group(1) else -1 if bracket.group(2) else 0
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(value := int(digits)) > MAX_INTEGER:
        raise ValueError("a number is too large")
    return value


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _check_texts(value: Any) -> None:
    if isinstance(value, str) and UNSTORABLE.search(value):
        raise ValueError("a string has a NUL or half a surrogate pair")
    if isinstance(value, dict):
        _check_texts(list(value))
        _check_texts(list(value.values()))
    if isinstance(value, list):
        for one in value:
            _check_texts(one)

"""Marshmallow's validation errors as `Invalid`: the only place where one becomes the other."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, ValidationError

from monolith.errors import FieldError, Invalid


def load_fields(schema: Schema, values: Any, pointer: str = "", detail: str = "Some fields are invalid.") -> dict[str, Any]:
    """The values as the schema loads them. Raises `Invalid` with each wrong field; `pointer` is where the values are in the request."""
    try:
        loaded: dict[str, Any] = schema.load(values)
    except ValidationError as error:
        raise Invalid(detail, errors=field_errors(error.messages, pointer)) from error
    return loaded


def field_errors(messages: Any, pointer: str = "") -> list[FieldError]:
    """Marshmallow's nested messages as a flat list, each with the JSON pointer of its field."""
    if isinstance(messages, dict):
        return [error for key, value in messages.items() for error in field_errors(value, _pointer_of(key, pointer))]
    return [FieldError(str(message), pointer) for message in (messages if isinstance(messages, list) else [messages])]


def _pointer_of(key: Any, parent: str) -> str:
    return parent if key == "_schema" else f"{parent}/{str(key).replace('~', '~0').replace('/', '~1')}"

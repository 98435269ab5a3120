"""Fields of requests that may be written in more than one way."""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError, fields
from marshmallow.validate import Length

from monolith.errors import Invalid
from monolith.jobs import submission

MAX_TAGS = 20


class Priority(fields.Field[str]):
    """critical, high, normal, low, or 1..10."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        try:
            return submission.priority(value)
        except Invalid as error:
            raise ValidationError(error.detail) from error


class Tags(fields.List[str]):
    """Short words to find a document by; in a form, separated by commas."""

    def __init__(self, **options: Any) -> None:
        options["metadata"] = {"type": ["array", "string"], **options.get("metadata", {})}
        super().__init__(fields.String(validate=Length(1, 50)), validate=Length(max=MAX_TAGS), **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> list[Any]:
        if isinstance(value, str):
            value = [tag.strip() for tag in value.split(",") if tag.strip()]
        return super()._deserialize(value, attr, data, **options)


class Truth(fields.Boolean):
    """true or false, and not what might be meant by 0 or "yes"."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value

"""Marshmallow fields and schemas that several APIs share, and the JSON Schema of a job type's params."""

from __future__ import annotations

from functools import cache
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema, ValidationError, fields
from marshmallow.validate import Length, Range

from monolith.content.formatting import rfc3339
from monolith.documents import submission
from monolith.documents.submission import MAX_TAGS
from monolith.errors import Invalid
from monolith.job_types.registry import JobType

MAX_PAGE = 100


class Priority(fields.Field[str]):
    """A priority: critical, high, normal, low, or 1..10."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        try:
            return submission.priority(value)
        except Invalid as error:
            raise ValidationError(error.detail) from error


class Tags(fields.List[str]):
    """The tags of a document: a list, or one text in which commas separate them."""

    def __init__(self, **options: Any) -> None:
        options["metadata"] = {"type": ["array", "string"], **options.get("metadata", {})}
        super().__init__(fields.String(validate=Length(1, 50)), validate=Length(max=MAX_TAGS), **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> list[Any]:
        if isinstance(value, str):
            value = [tag.strip() for tag in value.split(",") if tag.strip()]
        return super()._deserialize(value, attr, data, **options)


class Truth(fields.Boolean):
    """true or false; 0, 1 and "yes" are refused."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class Moment(fields.Field[float]):
    """Seconds since 1970, shown as an RFC 3339 time in UTC."""

    def _serialize(self, value: float | None, attr: str | None, obj: Any, **options: Any) -> str | None:
        return rfc3339(value)


class PageQuery(Schema):
    limit = fields.Integer(load_default=20, validate=Range(1, MAX_PAGE), metadata={"description": "Maximum number of results"})
    starting_after = fields.String(metadata={"description": "The id of the last item of the previous page"})


class ListSchema(Schema):
    object = fields.Constant("list")
    has_more = fields.Boolean()
    url = fields.String()


def view_of(schema: type[Schema], row: Any, /, **computed: Any) -> dict[str, Any]:
    """The row as JSON with the fields of the schema, in its order: `computed` ones as given, the others read from the row.

    For long lists: `Schema.dump` takes ten times as long. Raises AttributeError for a field that is in neither.
    """
    return {
        name: computed[name] if name in computed else rfc3339(getattr(row, name)) if is_moment else getattr(row, name)
        for name, is_moment in _fields_of(schema)
    }


@cache
def _fields_of(schema: type[Schema]) -> list[tuple[str, bool]]:
    """The names of its fields, and whether each is a moment."""
    return [(name, isinstance(field, Moment)) for name, field in schema().fields.items()]


def params_schema(job_type: JobType) -> dict[str, Any]:
    """The JSON Schema of a job type's params. The API shows it, and the forms of the pages are made from it."""
    plugin = MarshmallowPlugin()
    APISpec(title="params", version="1", openapi_version="3.1.0", plugins=[plugin])
    if plugin.converter is None:
        raise RuntimeError("apispec did not set up its converter")
    found: dict[str, Any] = plugin.converter.schema2jsonschema(job_type.params())
    return {"type": "object", "properties": {}, **found, "additionalProperties": False}

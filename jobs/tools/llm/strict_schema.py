"""Converts marshmallow schemas to JSON Schema in the strict form of OpenAI's structured outputs."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate


def json_schema(schema: Schema) -> dict[str, Any]:
    """Returns the schema in strict form: every field required, no others. Raises TypeError for an unsupported field type."""
    properties = {name: _property(field) for name, field in schema.fields.items()}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _property(field: fields.Field[Any]) -> dict[str, Any]:
    """One field. Maximum lengths go into the description: strict mode has no keyword for them."""
    schema: dict[str, Any] = {**_type(field)}
    words = [field.metadata.get("description", "")]
    for check in field.validators:
        if isinstance(check, validate.Range):
            schema |= {key: value for key, value in (("minimum", check.min), ("maximum", check.max)) if value is not None}
        elif isinstance(check, validate.OneOf):
            schema["enum"] = list(check.choices)
        elif isinstance(check, validate.Length) and check.max is not None:
            words.append(f"At most {check.max} {'entries' if isinstance(field, fields.List) else 'characters'}.")
    if description := " ".join(word for word in words if word):
        schema["description"] = description
    return schema


def _type(field: fields.Field[Any]) -> dict[str, Any]:
    if isinstance(field, fields.List):
        return {"type": "array", "items": _property(field.inner)}
    if isinstance(field, fields.Nested):
        return json_schema(field.schema)
    names = {fields.String: "string", fields.Boolean: "boolean", fields.Integer: "integer", fields.Float: "number"}
    name = next((name for kind, name in names.items() if isinstance(field, kind)), None)
    if name is None:
        raise TypeError(f"{type(field).__name__} has no JSON Schema here")
    return {"type": name}

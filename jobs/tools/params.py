"""What the parameter schemas of several job types share."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, ValidationError, pre_load

from monolith.content.fetch import url_problem


class FormParams(Schema):
    """A schema that treats blank form fields as not given."""

    @pre_load
    def without_blanks(self, data: Any, **_: Any) -> Any:
        """Removes the fields that are None or only whitespace."""
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None and not (isinstance(value, str) and not value.strip())}


def check_url(url: str) -> None:
    """Validates the URL of a page."""
    if problem := url_problem(url):
        raise ValidationError(problem)

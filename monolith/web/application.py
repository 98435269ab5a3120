"""The class of the application: Flask without what each request would pay for and nothing here uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask
from flask.json.provider import DefaultJSONProvider

from monolith import strict_json


class StrictJson(DefaultJSONProvider):
    """Flask's JSON in the order of the fields, with null for a float that JSON does not have."""

    sort_keys = False

    def dumps(self, obj: Any, **options: Any) -> str:
        return strict_json.dumps(
            obj, **{"default": self.default, "ensure_ascii": self.ensure_ascii, "sort_keys": self.sort_keys, **options}
        )


class Application(Flask):
    """Flask whose views and hooks are all plain functions."""

    json_provider_class = StrictJson

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The function itself. Flask examines each of some 25 functions in each request: it might be a coroutine."""
        return func

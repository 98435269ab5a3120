"""The class of the application: Flask without what each request would pay for and nothing here uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask


class Application(Flask):
    """Flask whose views and hooks are all plain functions."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The function itself. Flask examines each of some 25 functions in each request: it might be a coroutine."""
        return func

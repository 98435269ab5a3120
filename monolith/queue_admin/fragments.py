"""Parts of admin pages that are alive: each asks for itself every few seconds, and is sent again only when it looks different.

What changes by itself with every request, such as a CSRF token, does not belong in one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from flask import Response, render_template, request
from markupsafe import Markup


@dataclass(frozen=True)
class Fragment:
    """`name` is the element's id; `url` gives it again; the version is that of its looks."""

    name: str
    url: str
    inner: Markup
    every_s: int = 2

    @property
    def version(self) -> str:
        return hashlib.sha256(self.inner.encode()).hexdigest()[:16]

    def __html__(self) -> str:
        return render_template("queue_admin/_fragment.html", fragment=self)


def fragment(name: str, url: str, template: str, shown: dict[str, Any], *, every_s: int = 2) -> Fragment:
    """The part that this template shows."""
    return Fragment(name, url, Markup(render_template(template, **shown)), every_s)  # noqa: S704 - the template has escaped it


def answer(one: Fragment) -> Response | str:
    """The part; 204 when it is still as the page shows it."""
    return Response(status=204) if request.args.get("seen") == one.version else one.__html__()

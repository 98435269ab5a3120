"""Bytes that people handed in or jobs made, sent so that no browser runs them in our name."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from flask import Response, jsonify, redirect, render_template, request
from markupsafe import Markup
from werkzeug.wrappers import Response as AnyResponse

from monolith.documents import queries

SANDBOX = "sandbox; default-src 'none'"


def download(content: bytes | str, media_type: str, filename: str) -> Response:
    """An answer that is saved, never shown: whatever it holds, it does not act as a page of ours."""
    return saved(Response(content, content_type=media_type), filename)


def saved(response: Response, filename: str) -> Response:
    """The same of an answer that is there."""
    response.headers.set("Content-Disposition", "attachment", filename=filename)
    response.headers["Content-Security-Policy"] = SANDBOX
    return response


def listed(page: queries.ListPage, views: list[dict[str, Any]]) -> Response:
    """A page as JSON, with the next one in the Link header."""
    response = jsonify(object="list", data=views, has_more=page.has_more, url=request.path)
    if page.has_more:
        following = {**request.args.to_dict(), "starting_after": page.rows[-1].id}
        response.headers["Link"] = f'<{request.path}?{urlencode(following)}>; rel="next"'
    return response


def go(url: str) -> AnyResponse:
    """Send the browser on. A request of htmx needs a header, since it would follow a redirect by itself."""
    return Response(status=204, headers={"HX-Redirect": url}) if "HX-Request" in request.headers else redirect(url, 303)


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

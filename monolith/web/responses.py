"""Responses that several blueprints share: downloads, JSON lists, redirects, and parts of pages that update themselves."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from flask import Response, jsonify, redirect, render_template, request
from markupsafe import Markup
from werkzeug.wrappers import Response as AnyResponse

from monolith.documents import queries
from monolith.web.public_address import own_path

SANDBOX = "sandbox; default-src 'none'"


def download(content: bytes | str, media_type: str, filename: str) -> Response:
    """A download. The browser saves it and never runs it as a page of this site, whatever it contains."""
    return saved(Response(content, content_type=media_type), filename)


def saved(response: Response, filename: str) -> Response:
    """Turn a response into a download, as `download` does."""
    response.headers.set("Content-Disposition", "attachment", filename=filename)
    response.headers["Content-Security-Policy"] = SANDBOX
    return response


def listed(page: queries.ListPage, views: list[dict[str, Any]]) -> Response:
    """A page of a list as JSON, with the URL of the next page in the Link header."""
    response = jsonify(object="list", data=views, has_more=page.has_more, url=own_path())
    if page.has_more:
        following = {**request.args.to_dict(), "starting_after": page.rows[-1].id}
        response.headers["Link"] = f'<{own_path()}?{urlencode(following)}>; rel="next"'
    return response


def go(url: str) -> AnyResponse:
    """Redirect the browser; for a request of htmx by a header, since htmx would follow a redirect itself."""
    return Response(status=204, headers={"HX-Redirect": url}) if "HX-Request" in request.headers else redirect(url, 303)


@dataclass(frozen=True)
class Fragment:
    """A part of a page that updates itself: the id of its element, its URL, its HTML, and the seconds between updates."""

    name: str
    url: str
    inner: Markup
    every_s: int = 2

    @property
    def version(self) -> str:
        """A hash of the HTML."""
        return hashlib.sha256(self.inner.encode()).hexdigest()[:16]

    def __html__(self) -> str:
        return render_template("queue_admin/_fragment.html", fragment=self)


def fragment(name: str, url: str, template: str, shown: dict[str, Any], *, every_s: int = 2) -> Fragment:
    """Render a template as a fragment."""
    return Fragment(name, url, Markup(render_template(template, **shown)), every_s)  # noqa: S704 - the template has escaped it


def answer(one: Fragment) -> Response | str:
    """The fragment; 204 if the page already shows this version of it."""
    return Response(status=204) if request.args.get("seen") == one.version else one.__html__()

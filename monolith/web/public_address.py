"""The address at which people open Intray: what trusted proxies say of it, `PUBLIC_URL`, and a prefix that all paths have there.

All links are paths from the root of the host, and carry the prefix: that of `PUBLIC_URL` or `SCRIPT_NAME`, else what a trusted proxy
says in `X-Forwarded-Prefix`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, request
from werkzeug.middleware.proxy_fix import ProxyFix

from monolith.config import settings
from monolith.errors import Forbidden
from monolith.setting_rules import PREFIX

DEFAULT_PORTS = {"http": ":80", "https": ":443"}
FOREIGN = "This request came from another site and was blocked. Open the page here and try again."


def init_app(app: Flask) -> None:
    """Trust as many proxies as `TRUSTED_PROXIES` says; 0 trusts none, as clients could forge their headers."""
    proxies = settings().trusted_proxies
    app.wsgi_app = Prefixed(app, app.wsgi_app, proxies)  # type: ignore[method-assign]
    if proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=0)  # type: ignore[method-assign]
    app.after_request(_redirect_by_path)
    for function in (own_path, own_full_path, root_url):
        app.add_template_global(function)


class Prefixed:
    """WSGI middleware that makes the prefix part of all links, and takes it off paths from which the proxy has not taken it."""

    def __init__(self, app: Flask, wsgi_app: Any, proxies: int) -> None:
        self._app, self._wsgi_app, self._proxies = app, wsgi_app, proxies

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        own = settings().prefix
        prefix = own or ("" if settings().public_url else self._prefix_of_proxy(environ.get("HTTP_X_FORWARDED_PREFIX", "")))
        if prefix:
            environ["SCRIPT_NAME"] = prefix
            path = environ.get("PATH_INFO", "")
            # Not by a header: many proxies pass on what a client invents, and have rules for the paths that they see.
            if own and f"{path}/".startswith(f"{prefix}/") and not self._is_route(prefix):
                environ["PATH_INFO"] = path[len(prefix) :] or "/"
        answer: Iterable[bytes] = self._wsgi_app(environ, start_response)
        return answer

    def _prefix_of_proxy(self, header: str) -> str:
        """What the outermost trusted proxy that gave a prefix says; empty where it is no path."""
        said = [one.strip() for one in header.split(",")][-self._proxies :] if self._proxies else [""]
        prefix = said[0].rstrip("/")
        return prefix if re.fullmatch(PREFIX, prefix) else ""

    def _is_route(self, prefix: str) -> bool:
        """Whether paths of our own begin like this: then the proxy must take the prefix off."""
        return any(f"{rule.rule}/".startswith(f"{prefix}/") for rule in self._app.url_map.iter_rules())


def own_path() -> str:
    """The path of this request, as the browser has it."""
    return request.script_root + request.path


def own_full_path() -> str:
    """The path of this request with its query, as the browser has it."""
    return request.script_root + request.full_path.rstrip("?")


def root_url() -> str:
    """The address of Intray, for people to copy. It does not end with a slash."""
    return settings().public_url or request.host_url.rstrip("/") + request.script_root


def _redirect_by_path(response: Response) -> Response:
    """Redirects of ours are paths: werkzeug makes some of the Host header, which a proxy may have changed."""
    location, start = response.location or "", f"{request.scheme}://{request.host}/"
    if location.lower().startswith(start.lower()):
        response.location = "/" + location[len(start) :].lstrip("/")
    return response


def check_same_site(*, needs_origin: bool = False) -> None:
    """Raises `Forbidden` when a page of another site sent this request, by Sec-Fetch-Site or, where that is missing, by Origin.

    Browsers leave out Sec-Fetch-Site on plain http. `needs_origin`: a browser that says neither is refused, too.
    """
    try:
        site, origin = request.headers.get("Sec-Fetch-Site"), urlsplit(request.headers.get("Origin", ""))
    except ValueError:
        raise Forbidden(FOREIGN) from None
    if site:
        is_ours = site == "same-origin" or (site == "none" and not needs_origin)
    elif not origin.netloc:
        is_ours = not needs_origin
    else:
        is_ours = _host(origin.netloc, origin.scheme) in _own_hosts(origin.scheme)
    if not is_ours:
        raise Forbidden(FOREIGN if site or not origin.netloc else _other_host(f"{origin.scheme}://{origin.netloc}"[:200]))


def _own_hosts(scheme: str) -> set[str]:
    """The hosts at which this request may have been meant for us. A proxy may have replaced or shortened the Host header."""
    return {_host(request.host, scheme), _host(urlsplit(settings().public_url or "").netloc, scheme)} - {""}


def _host(netloc: str, scheme: str) -> str:
    """The host and port, without the default port, as browsers write an Origin."""
    return netloc.lower().removesuffix(DEFAULT_PORTS.get(scheme, ""))


def _other_host(origin: str) -> str:
    public = settings().public_url
    return (
        f"This request came from a page of {origin}, but reached Intray as {request.headers.get('Host', '')[:200]}"
        f"{f', and PUBLIC_URL is {public}' if public else ''}. If people open Intray at {origin}, a proxy changes the Host header: "
        f"set PUBLIC_URL={origin}{request.script_root}, or let the proxy pass Host on as it came. Otherwise another site sent it."
    )

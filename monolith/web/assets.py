"""Static files, under names with a content hash so that browsers cache them for a year, and gzip for pages."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flask import Flask, Response, request, url_for

from monolith.config import ROOT
from monolith.errors import NotFound

FOLDER = ROOT / "monolith" / "static"
A_YEAR = "public, max-age=31536000, immutable"
MIN_GZIP_SIZE = 1024  # bytes
_HASHED = re.compile(r"(.+)\.([0-9a-f]{10})(\.\w+)")


@dataclass(frozen=True)
class Asset:
    """A static file; `gzipped` is None where gzip does not make it smaller."""

    content: bytes
    gzipped: bytes | None
    media_type: str
    hash: str


def init_app(app: Flask) -> None:
    """Register the route of static files, `static_url` for templates, and gzip."""
    app.add_url_rule("/static/<path:filename>", "static", send)
    app.add_template_global(static_url)
    app.after_request(compress_page)


def static_url(filename: str) -> str:
    """The URL of a static file, with its content hash in the name."""
    asset, path = _asset(filename), Path(filename)
    return url_for("static", filename=f"{path.stem}.{asset.hash}{path.suffix}")


def send(filename: str) -> Response:
    """Send a static file. Under a name without its current hash, browsers must revalidate it each time."""
    hashed = _HASHED.fullmatch(filename)
    asset = _asset(hashed[1] + hashed[3] if hashed else filename)
    is_gzipped = asset.gzipped is not None and bool(request.accept_encodings["gzip"])
    response = Response(asset.gzipped if is_gzipped else asset.content, content_type=asset.media_type)
    if is_gzipped:
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept-Encoding"
    response.headers["Cache-Control"] = A_YEAR if hashed and hashed[2] == asset.hash else "public, no-cache"
    response.set_etag(f"{asset.hash}{'-gzip' if is_gzipped else ''}")
    response.make_conditional(request)
    return response


def compress_page(response: Response) -> Response:
    """Compress pages and the OpenAPI document.

    Not a page with a query string: an attacker could put text there and learn secrets of the page from its compressed size (BREACH).
    """
    is_page = response.mimetype == "text/html" or request.endpoint == "api-docs.openapi_json"
    if not is_page or request.query_string or response.is_streamed or "Content-Encoding" in response.headers:
        return response
    response.vary.add("Accept-Encoding")
    if request.accept_encodings["gzip"] and len(response.get_data()) > MIN_GZIP_SIZE:
        response.set_data(gzip.compress(response.get_data(), compresslevel=5, mtime=0))
        response.headers["Content-Encoding"] = "gzip"
    return response


def _asset(name: str) -> Asset:
    path = FOLDER / name
    if Path(name).name != name or not path.is_file():
        raise NotFound(f"File {name[:60]!r} does not exist.")
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _read(path: Path, changed_at: int) -> Asset:
    """The file as it was at `changed_at`, so that a developer sees changes without a restart."""
    content = path.read_bytes()
    gzipped = gzip.compress(content, mtime=0)
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    text = "; charset=utf-8" if media_type.startswith(("text/", "application/javascript")) else ""
    is_smaller = len(content) > MIN_GZIP_SIZE and len(gzipped) < len(content)
    return Asset(content, gzipped if is_smaller else None, media_type + text, hashlib.sha256(content).hexdigest()[:10])

"""What goes over the line: static files under names with a hash, which a browser keeps for a year, and pages packed by gzip."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flask import Flask, Response, request, url_for

from monolith.errors import NotFound

FOLDER = Path(__file__).parent.parent / "static"
A_YEAR = "public, max-age=31536000, immutable"
WORTH_PACKING = 1024  # bytes
_HASHED = re.compile(r"(.+)\.([0-9a-f]{10})(\.\w+)")


@dataclass(frozen=True)
class Asset:
    """A file as it is sent; `packed` by gzip where that makes it smaller."""

    content: bytes
    packed: bytes | None
    media_type: str
    hash: str


def init_app(app: Flask) -> None:
    app.add_url_rule("/static/<path:filename>", "static", send)
    app.add_template_global(static_url)
    app.after_request(pack)


def static_url(filename: str) -> str:
    """The address of a static file, with the hash of its content in its name."""
    asset, path = _asset(filename), Path(filename)
    return url_for("static", filename=f"{path.stem}.{asset.hash}{path.suffix}")


def send(filename: str) -> Response:
    """A static file. By a name without a hash, or with that of another deploy, it is asked for anew each time."""
    hashed = _HASHED.fullmatch(filename)
    asset = _asset(hashed[1] + hashed[3] if hashed else filename)
    is_packed = asset.packed is not None and bool(request.accept_encodings["gzip"])
    response = Response(asset.packed if is_packed else asset.content, content_type=asset.media_type)
    if is_packed:
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept-Encoding"
    response.headers["Cache-Control"] = A_YEAR if hashed and hashed[2] == asset.hash else "public, no-cache"
    response.set_etag(f"{asset.hash}{'-gzip' if is_packed else ''}")
    response.make_conditional(request)
    return response


def pack(response: Response) -> Response:
    """Send a page by gzip, and the API's document. Not one of an address with a query, which may be a stranger's words beside what is
    the reader's own: their common length would tell (BREACH).
    """
    is_page = response.mimetype == "text/html" or request.endpoint == "api-docs.openapi_json"
    if not is_page or request.query_string or response.is_streamed or "Content-Encoding" in response.headers:
        return response
    response.vary.add("Accept-Encoding")
    if request.accept_encodings["gzip"] and len(response.get_data()) > WORTH_PACKING:
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
    """The file as it was at this moment: whoever works on one sees the change without a restart."""
    content = path.read_bytes()
    packed = gzip.compress(content, mtime=0)
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    text = "; charset=utf-8" if media_type.startswith(("text/", "application/javascript")) else ""
    is_smaller = len(content) > WORTH_PACKING and len(packed) < len(content)
    return Asset(content, packed if is_smaller else None, media_type + text, hashlib.sha256(content).hexdigest()[:10])

"""What the value of a setting must be: validators for `config`. Each raises `ValidationError` with what is wrong and what to write.

No message repeats a value: it may hold a password, also in a place where no password belongs.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from marshmallow import ValidationError, fields
from marshmallow.validate import Length, Range

from monolith import rate as rates

SHORTEST_TOKEN = 16  # characters
MAX_FIGURE = 10_000_000  # of a job type's attempts, seconds and running jobs: more fits no column and no timer
SQLITE_HEAD = b"SQLite format 3\0"
PREFIX = r"(/[A-Za-z0-9._~-]+)+"  # of paths
OF_POOL = ("max_connections", "timeout")  # options of a Redis URL that are not those of a connection
POSTGRESQL = "postgresql+psycopg"
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "sslrootcert", "sslcert", "sslkey")  # options of URLs that name a file
ENCODED = "with special characters in user and password percent-encoded"

# Upper ends only keep nonsense out, such as a time that overflows in the database.
port = Range(1, 65535)
a_few = Range(1, 10_000)
count = Range(0, 10**9)
some = Range(1, 10**9)
seconds = Range(0, 10**8)
some_seconds = Range(0.1, 10**8)
days = Range(0, 36_500)
some_days = Range(0.001, 36_500)
usd = Range(0, 10**9)
size = Range(1, 2**40)  # bytes


def plain(text: str) -> None:
    """Any text without line breaks, other control characters and bytes that are not UTF-8."""
    if not text.isprintable():
        raise ValidationError("It has a line break or another character that cannot be printed. Remove that.")


def encodable(text: str) -> None:
    """Any text that is UTF-8."""
    with suppress(UnicodeEncodeError):
        text.encode()
        return
    raise ValidationError("It has bytes that are not UTF-8. Remove them.")


def header(text: str) -> None:
    """What can be sent in an HTTP header."""
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValidationError("It may have letters, digits and signs of ASCII only, without spaces and line breaks.")


def token(text: str) -> None:
    header(text)
    if 0 < len(text) < SHORTEST_TOKEN:
        raise ValidationError(f"It is too short. Use at least {SHORTEST_TOKEN} random characters.")


def rate(text: str) -> None:
    """A rate; empty or 0 for no limit."""
    try:
        rates.parse_optional(text)
    except ValueError:
        raise ValidationError("It is not a rate. Write a rate as 60/m, 10/s or 1000/h, or '1200 per minute'; 0 is no limit.") from None


def strict_rate(text: str) -> None:
    """A rate, which cannot be left out."""
    rate(text)
    if text.strip() in ("", "0"):
        raise ValidationError("It must be a rate. Write it as '10 per minute'.")


PRICES = fields.Dict(fields.String(), fields.List(fields.Decimal(validate=Range(0, 1_000_000)), validate=Length(2, 3)))


def prices(text: str) -> None:
    try:
        parse_prices(text)
    except (ValueError, ValidationError) as error:
        why = json.dumps(error.messages) if isinstance(error, ValidationError) else f"not valid JSON: {error}"
        raise ValidationError(
            f"{why}. Give the prices in USD per million tokens, "
            'such as {"some-model": [0.25, 2.00]}: input and output. An optional third price is for cached input.'
        ) from None


def parse_prices(text: str) -> dict[str, list[Decimal]]:
    """The prices by model. Raises `ValueError` or `ValidationError`."""
    found: dict[str, list[Decimal]] = PRICES.deserialize(json.loads(text or "{}", parse_float=str))
    return found


def signing_secret(text: str) -> None:
    """A secret in the format of Standard Webhooks."""
    with suppress(ValueError):
        if text.startswith("whsec_") and 24 <= len(base64.b64decode(text.removeprefix("whsec_"), validate=True)) <= 64:
            return
    if text:
        raise ValidationError("It is not a signing secret. Write whsec_ followed by 24 to 64 random bytes in base64.")


def host(text: str) -> None:
    """An address or a name that resolves to one. It is asked for only where it is a name."""
    plain(text)
    if not text:
        return
    try:
        socket.getaddrinfo(text, None)
    except (OSError, UnicodeError):
        raise ValidationError(
            "No such host. Set it to an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them."
        ) from None


def packages(names: list[str]) -> None:
    """Packages that can be found; none is imported but the parents of nested ones."""
    for name in map(str.strip, names):
        try:
            found = importlib.util.find_spec(name)
        except Exception:
            found = None
        if found is None or found.submodule_search_locations is None:
            raise ValidationError(f"{name!r} is not a package that can be imported. Separate several with commas.")
    if not names:
        raise ValidationError("It names no package.")


def class_path(text: str) -> None:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", text):
        raise ValidationError("It is not the dotted name of a class.")


def control_group(text: str) -> None:
    plain(text)
    if text and not Path(text, "cgroup.procs").exists():
        raise ValidationError("It is not a folder of control groups (v2).")


def mail_url(text: str) -> None:
    example = f"Write smtp://user:password@host:port or smtps://..., {ENCODED}"
    if text:
        parts = _split(text, ("smtp", "smtps"), f"It is not the URL of a mail server. {example}")
        options = dict(parse_qsl(parts.query))
        if parts.path not in ("", "/") or options.pop("starttls", "offered") not in ("required", "offered", "never") or options:
            raise ValidationError(
                f"It is not the URL of a mail server. {example}; the only option is ?starttls=required, offered or never."
            )


def calendar_url(text: str) -> None:
    wrong = f"It is not the URL of a calendar. Write https://user:password@host/path/to/calendar/, {ENCODED}"
    if text and _split(text, ("http", "https"), wrong).query:
        raise ValidationError(f"{wrong}.")


def web_url(text: str) -> None:
    if text:
        _split(text, ("http", "https"), "It is not the address of a server. Write https://host/path")


def public_url(text: str) -> None:
    wrong = "It is not the address of an installation. Write https://host or https://host/prefix"
    if text:
        parts = _split(text, ("http", "https"), wrong)
        if parts.query or "@" in parts.netloc or not re.fullmatch(f"({PREFIX})?/?", parts.path):
            raise ValidationError(f"{wrong}.")


def prefix(text: str) -> None:
    if text and not re.fullmatch(PREFIX, text):
        raise ValidationError("It is not a prefix of paths. Write /name, without a slash at the end.")


def redis_url(text: str) -> None:
    example = f"Write redis://user:password@host:6379/0, {ENCODED}"
    wrong = f"It is not a valid Redis URL. {example}"
    if not text:
        return
    scheme = text.partition(":")[0].lower()
    if scheme == "unix":
        query = _split(text, ("unix",), wrong, has_host=False).query
    else:
        parts = _split(_one_sentinel(text, wrong), ("redis", "rediss"), wrong)
        if not re.fullmatch(r"(/\d*)?", parts.path):
            raise ValidationError(f"{wrong}.")
        text, query = urlunsplit(parts), parts.query
    _check_files(query)
    options = [one for one in parse_qsl(query) if one[0] != "sentinel_password"]
    if not _redis_takes(f"{text.partition('?')[0]}?{urlencode(options)}"):
        raise ValidationError("It has an option that the Redis client does not know, or cannot use. Correct what follows the ?.")


def _one_sentinel(text: str, wrong: str) -> str:
    """The URL of Sentinel as that of a server, the first sentinel; other URLs as they are."""
    scheme, separator, rest = text.partition("+sentinel://")
    if not separator:
        return text
    login, at, places = rest.rpartition("@")
    hosts, _, path = places.partition("/")
    service, _, last = path.partition("/")
    number, _, query = last.partition("?")
    for one in hosts.split(","):
        _split(f"{scheme}://{one}", ("redis", "rediss"), wrong)
    if not re.match(r"[^?/]+", service):
        raise ValidationError("Sentinel needs the name of the service. Write redis+sentinel://host:port,host:port/service/0.")
    query = query or service.partition("?")[2]
    return f"{scheme}://{login}{at}{hosts.partition(',')[0]}/{number}{f'?{query}' if query else ''}"


def _redis_takes(url: str) -> bool:
    """Whether a connection can be made of the URL; none is opened."""
    from redis import RedisError
    from redis.connection import Connection, parse_url

    try:
        options = parse_url(url)
        options.pop("connection_class", Connection)(**{name: one for name, one in options.items() if name not in OF_POOL})
    except (TypeError, ValueError, RedisError):
        return False
    return "decode_responses" not in options  # RQ reads bytes


def database_url(text: str) -> None:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    wrong = f"It is not a valid database URL. Write postgresql://user:password@host/name, {ENCODED}, or sqlite:////path/to/file"
    if not text:
        return
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ValidationError(f"{wrong}.") from None
    if not text.isprintable():
        raise ValidationError(f"{wrong}.")
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        if url.host or not url.database or ":memory:" in url.database or url.database.startswith("file:"):
            raise ValidationError("It names no file. Write sqlite:////path/to/file, with four slashes for an absolute path.")
        sqlite_file(Path(url.database))
        return
    if url.drivername != POSTGRESQL:
        raise ValidationError(f"It uses {url.drivername}, but only postgresql:// and sqlite:/// are supported.")
    said = "".join(one for one in (url.username, url.password, url.host, url.database) if one)
    if not said.isprintable() or "@" in (url.host or "") or not _is_host(url.host or "localhost") or not 0 < (url.port or 5432) < 65536:
        raise ValidationError(f"{wrong}.")
    options = {name: one if isinstance(one, str) else one[-1] for name, one in url.query.items()}
    _check_options_of_libpq({name: one for name, one in options.items() if name != "search_path"})


def _check_options_of_libpq(options: dict[str, str]) -> None:
    import psycopg
    from psycopg.conninfo import make_conninfo

    for name in options:
        try:
            make_conninfo("", **{name: "1"})
        except psycopg.ProgrammingError:
            raise ValidationError(f"It has the option {name[:40]!r}, which PostgreSQL's client does not know. Remove that.") from None
    if options.get("sslmode", SSL_MODES[0]) not in SSL_MODES:
        raise ValidationError(f"Its sslmode must be one of {', '.join(SSL_MODES)}.")
    for name in ("connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"):
        if not re.fullmatch(r"-?\d{1,9}", options.get(name, "0")):
            raise ValidationError(f"Its {name} must be a whole number.")
    _check_files("&".join(f"{name}={one}" for name, one in options.items() if one != "system"))


def sqlite_file(path: Path) -> None:
    """A database, or a place to create one.

    Settings are read before a connection is opened: closing the file would end the locks that SQLite has for this process.
    """
    if path.is_dir():
        raise ValidationError(f"{path} is a folder. Name a file.")
    if path.exists():
        if not os.access(path, os.R_OK):  # one that cannot be written still answers pages, and the doctor says so
            raise ValidationError(f"The file {path} cannot be read. Name another one, or change its permissions.")
        with path.open("rb") as file:
            if file.read(len(SQLITE_HEAD)) not in (b"", SQLITE_HEAD):
                raise ValidationError(f"The file {path} is not an SQLite database. Name another one.")
        return
    folder = next((one for one in path.absolute().parents if one.exists()), Path("/"))
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ValidationError(f"The folder {folder} cannot be written. Name another place for the database, or change its permissions.")


def _split(text: str, schemes: tuple[str, ...], wrong: str, *, has_host: bool = True) -> SplitResult:
    """The parts of a URL. Raises `ValidationError` with `wrong`; a message of the library might repeat a part of the password."""
    with suppress(ValueError):
        parts = urlsplit(text)
        is_place = _is_host(parts.hostname) and parts.port != 0 and " " not in text if has_host else parts.hostname is None and parts.path
        logins = (unquote(parts.username or ""), unquote(parts.password or ""))
        is_clean = text.isprintable() and not parts.fragment and all(map(str.isprintable, logins))
        if parts.query:
            parse_qsl(parts.query, strict_parsing=True)
        if parts.scheme in schemes and is_place and is_clean:
            return parts
    raise ValidationError(f"{wrong}.")


def _is_host(name: str | None) -> bool:
    try:
        return bool(name) and bool((name or "").encode("idna"))
    except UnicodeError:
        return False


def _check_files(query: str) -> None:
    for name, path in parse_qsl(query):
        if name in FILES and not os.access(path, os.R_OK):
            raise ValidationError(f"Its {name} names a file that cannot be read. Correct the path, or its permissions.")


def number(kind: type[int] | type[float], least: int) -> Callable[[str], None]:
    """A number above 0, or 0 too where that is the least."""

    def check(text: str) -> None:
        wanted = f"a {'whole ' if kind is int else ''}number above 0" if least else "a whole number, 0 for no limit"
        with suppress(ValueError):
            if 0 < (value := kind(text)) <= MAX_FIGURE or value == least:
                return
        raise ValidationError(f"It must be {wanted}, at most {MAX_FIGURE:,}.")

    return check


def one_of(*choices: str) -> Callable[[Any], None]:
    """One of these words, in any case."""

    def check(text: str) -> None:
        if text.lower() not in choices and text.upper() not in choices:
            raise ValidationError(f"It must be one of {', '.join(one for one in choices if one)}.")

    return check

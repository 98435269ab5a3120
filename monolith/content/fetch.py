"""Fetch a page that a person named, without being led anywhere else.

The only place that opens connections to addresses people give; `post` uses it too. requests-hardened refuses private
addresses and pins the one it checked; around it stand the checks that it lacks (every address of a name, ports, a few
networks, getting through redirects by hand) and the limits: one deadline for everything, and a cap on the body after decompression.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

from monolith.config import settings
from monolith.errors import Permanent, Snooze

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

LONGEST_WAIT_S = 3600.0

MAX_URL = 2048
MAX_BODY = 10 * 1024 * 1024  # bytes, after decompression
MAX_REDIRECTS = 3
DEADLINE_S = 20.0
CONNECT_S = 5.0
IDLE_S = 10.0
PORTS = frozenset({80, 443, 8080, 8443})
HEADERS = {
    "User-Agent": "Intray/1.0 (fetches pages that its users submit)",
    "Accept": "text/html, application/xhtml+xml, application/pdf, text/*;q=0.9, */*;q=0.5",
    "Accept-Encoding": "gzip, deflate",
    "Connection": "close",
}
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
READABLE = frozenset({"application/xhtml+xml", "application/xml", "application/json", "application/pdf", DOCX})
UNSAID = frozenset({"", "application/octet-stream", "binary/octet-stream"})
BY_EXTENSION = {
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".rst": "text/x-rst",
    ".html": "text/html",
    ".htm": "text/html",
    ".json": "application/json",
    ".pdf": "application/pdf",
    ".docx": DOCX,
}
GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")
# `is_global` lets these through on some Python versions, or they lead to an IPv4 address of the sender's choice.
_REFUSED = ["100.64.0.0/10", "168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "2001::/23", "2002::/16", "3fff::/20"]
REFUSED = [ipaddress.ip_network(network) for network in _REFUSED]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Got = TypeVar("Got")


class FetchFailed(Exception):
    """The page could not be had this time; another attempt may succeed. The message is fit for the submitter."""


@dataclass(frozen=True)
class Fetched:
    """A page as it came. `url` is where it was found in the end; `media_type` has a charset when the server named one."""

    url: str
    content: bytes
    media_type: str


def why_unfit(url: str) -> str | None:
    """Why this cannot be the address of a page, in words for the submitter, or None. Nothing is looked up."""
    if len(url) > MAX_URL:
        return f"The web address has {len(url)} characters; the limit is {MAX_URL}."
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # `port` raises ValueError for one that is none
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or re.search(r"[\s\\\x00-\x20\x7f-\x9f]", url) or "%" in host:
        return "This is not a valid web address. It must start with http:// or https://."
    if "@" in parts.netloc:
        return "Web addresses with a user name or password are not allowed. Remove them."
    return None


def fetch(url: str, within: float = DEADLINE_S) -> Fetched:
    """Fetch a page, by at most MAX_REDIRECTS redirects.

    within: seconds for all of it: names, connections, headers, bodies. Raises `Permanent` for an address or an answer
    that will not do, `Later` when the server asks to wait, and `FetchFailed` for what may go better another time.
    """
    try:
        return in_time(lambda wire: _follow(url, wire), within)
    except TimeoutError:
        raise FetchFailed(f"{host_of(url)} took longer than {within:g} s to send the page.") from None


def in_time(exchange: Callable[[WatchedConnection], Got], within: float) -> Got:
    """What `exchange` gives. Raises `TimeoutError` after `within` seconds, and cuts its connections."""
    wire = WatchedConnection()
    outcome: Future[Got] = Future()
    # A thread, because nothing else bounds a slow name server, or headers that drip in a byte at a time.
    threading.Thread(target=_settle, args=(outcome, exchange, wire), daemon=True).start()
    try:
        return outcome.result(within)
    finally:
        wire.cut()


class WatchedConnection:
    """The connections of one exchange, which can all be cut at once, from outside, whatever they are doing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._is_cut = False

    def add(self, connected: socket.socket) -> None:
        with self._lock:
            self._sockets.append(connected)
            is_late = self._is_cut
        if is_late:
            self.cut()

    def cut(self) -> None:
        with self._lock:
            self._is_cut = True
            for connected in self._sockets:
                try:
                    socket.socket.shutdown(connected, socket.SHUT_RDWR)  # not SSLSocket's: it would pull the rug from its reader
                except OSError:
                    continue  # closed already


def _settle(outcome: Future[Got], exchange: Callable[[WatchedConnection], Got], wire: WatchedConnection) -> None:
    try:
        outcome.set_result(exchange(wire))
    except BaseException as error:
        outcome.set_exception(error)


def _follow(url: str, wire: WatchedConnection) -> Fetched:
    for _ in range(MAX_REDIRECTS + 1):
        with answer(prepared("GET", url, headers=HEADERS), wire) as response:
            if not response.is_redirect:
                _check_status(response, host_of(url))
                return Fetched(url, _body(response), _media_type(response, url))
            url = urljoin(url, response.headers["Location"])
    raise Permanent(f"The page redirects more than {MAX_REDIRECTS} times. Use its final address.")


@contextmanager
def answer(request: PreparedRequest, wire: WatchedConnection) -> Iterator[Response]:
    """The answer to one request, its body not yet read. No session: so no cookies, no proxies, no passwords of ours."""
    import requests
    from requests_hardened.ip_filter import InvalidIPAddress

    url = str(request.url)
    check_target(url)
    adapter = _adapter(url, wire)
    try:
        with adapter.send(request, stream=True, timeout=(CONNECT_S, IDLE_S), verify=True) as response:
            yield response
    except InvalidIPAddress:
        raise _not_public(host_of(url)) from None
    except requests.Timeout:
        raise FetchFailed(f"{host_of(url)} did not answer in time.") from None
    except requests.exceptions.SSLError:
        raise FetchFailed(f"{host_of(url)} could not be reached securely: its certificate or TLS setup is not valid.") from None
    except requests.RequestException:
        raise FetchFailed(f"{host_of(url)} could not be reached, or closed the connection.") from None
    finally:
        adapter.close()


def prepared(method: str, url: str, **said: Any) -> PreparedRequest:
    """The request as it will be sent: what is checked from here on is what is connected to. Raises `Permanent`."""
    import requests

    if reason := why_unfit(url):
        raise Permanent(reason)
    try:
        return requests.Request(method, url, **said).prepare()
    except (requests.RequestException, UnicodeError):
        raise Permanent("This is not a valid web address. Check it and submit it again.") from None


def check_target(url: str) -> None:
    """Refuse a target unless every address of its name is public and its port one of the web's. Raises `Permanent`, `FetchFailed`."""
    parts = urlsplit(url)
    host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
    addresses = [_address(text) for text in _lookup(host, port)]
    if not all(_is_allowed(address) for address in addresses):
        raise _not_public(host)
    if port not in PORTS and not all(address.is_loopback for address in addresses):
        raise Permanent(f"Port {port} is not allowed. Use an address on port 80, 443, 8080 or 8443.")


def _lookup(host: str, port: int) -> list[str]:
    last = host.rstrip(".").rpartition(".")[2]
    if re.fullmatch(r"0x[0-9a-f]*|\d+", last) and not re.fullmatch(r"\d+(\.\d+){3}", host):
        raise _not_public(host)  # 2130706433, 0x7f.1, 127.1: other spellings of 127.0.0.1
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise FetchFailed(f"The host name {host} could not be resolved right now.") from None
        raise _not_public(host) from None
    except UnicodeError:
        raise _not_public(host) from None


def _address(text: str) -> Address:
    return ipaddress.ip_address(text.strip("[]").partition("%")[0])


def _is_allowed(address: Address) -> bool:
    if address.is_loopback:
        return settings().fetch_allow_loopback
    if isinstance(address, ipaddress.IPv6Address) and address not in GLOBAL_IPV6:
        return False
    is_special = address.is_multicast or address.is_reserved or address.is_link_local or address.is_unspecified
    return address.is_global and not is_special and not any(address in network for network in REFUSED)


def _not_public(host: str) -> Permanent:
    """One message for a name that is not there and one that is private: it must not tell what our network has."""
    return Permanent(f"{host} is not a public site that can be reached from here. Check the address, or submit the text itself.")


def _adapter(url: str, wire: WatchedConnection) -> Any:
    """requests-hardened's adapter, with its pinned address checked by our rules and its connections on our wire."""
    from requests_hardened.ip_filter_adapter import IPFilterAdapter

    class Guarded(IPFilterAdapter):
        def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
            pool = super().get_connection_with_tls_context(*args, **kwargs)
            if not _is_allowed(_address(pool.host)):
                raise _not_public(host_of(url))
            pool.ConnectionCls = _watched(pool.ConnectionCls, wire)
            return pool

    return Guarded(is_https_proto=url.startswith("https:"), allow_loopback=settings().fetch_allow_loopback)


def _watched(connection: Any, wire: WatchedConnection) -> Any:
    class Watched(connection):
        def connect(self) -> None:
            super().connect()
            wire.add(self.sock)

    return Watched


def _check_status(response: Response, host: str) -> None:
    status = response.status_code
    wait = seconds_asked(response.headers) if status in (429, 503) else None
    if wait is not None:
        raise Snooze(wait, f"{host} asked us to wait {wait:g} s.")
    if status in (408, 429) or status >= 500:
        raise FetchFailed(f"{host} is temporarily unavailable (status {status}).")
    if status in (401, 402, 403):
        raise Permanent(f"{host} does not show this page publicly (status {status}). Submit its text or a file instead.")
    if status in (404, 410):
        raise Permanent(f"{host} has no page at this address (status {status}). Check the address.")
    if not 200 <= status < 300:
        raise Permanent(f"{host} did not return the page (status {status}). Open the address in a browser and check it.")


def _body(response: Response) -> bytes:
    body = bytearray()
    for piece in response.iter_content(64 * 1024):
        body += piece
        if len(body) > MAX_BODY:
            raise Permanent(f"The page is larger than {MAX_BODY // 1024 // 1024} MB. Give a smaller one, or submit a part of it as a file.")
    if not body.strip():
        raise Permanent("The page is empty. Check the address, or submit the text itself.")
    return bytes(body)


def _media_type(response: Response, url: str) -> str:
    declared = response.headers.get("Content-Type", "").lower()
    kind = declared.partition(";")[0].strip()
    if kind in UNSAID:
        kind = BY_EXTENSION.get(PurePosixPath(urlsplit(url).path).suffix.lower(), kind or "text/html")
    if not re.fullmatch(r"text/[\w.+-]{1,60}", kind) and kind not in READABLE:
        raise Permanent(
            f"The address leads to {kind[:80]!r}, which is not supported. Use a web page, a PDF, a Word document or a text file."
        )
    charset = re.search(r"charset=[\"']?([\w.:-]{1,40})", declared)
    return f"{kind}; charset={charset[1]}" if charset and charset[1] not in ("utf-8", "utf8") else kind


def host_of(url: str) -> str:
    return urlsplit(url).hostname or url[:80]


def seconds_asked(headers: Mapping[str, str], longest: float = LONGEST_WAIT_S) -> float | None:
    """The seconds of a `Retry-After` header, from 1 to `longest`; None when it is missing or says nothing.

    The header is a number of seconds or a date (RFC 9110, 10.2.3).
    """
    given = headers.get("Retry-After", "").strip()
    if not given:
        return None
    try:
        seconds = float(given) if given[0].isdigit() else _until(given)
    except (ValueError, TypeError):
        return None
    return min(max(seconds, 1.0), longest)


def _until(date: str) -> float:
    when = parsedate_to_datetime(date)
    return (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()

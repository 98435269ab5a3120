"""Fetches pages from user-supplied URLs, protected against server-side request forgery (SSRF).

All connections to user-supplied addresses are opened here; `http_post` uses it too. requests-hardened refuses private addresses and
pins the address it has checked. This module adds what it lacks: checks of every address of a name, of ports and of further networks,
redirects followed one by one, one deadline for the whole exchange, and a limit on the decompressed body.
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
GENERIC_TYPES = frozenset({"", "application/octet-stream", "binary/octet-stream"})
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
# `is_global` allows these on some Python versions, or they embed an IPv4 address.
_BLOCKED = ["100.64.0.0/10", "168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "2001::/23", "2002::/16", "3fff::/20"]
BLOCKED_NETWORKS = [ipaddress.ip_network(network) for network in _BLOCKED]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Result = TypeVar("Result")


class FetchFailed(Exception):
    """The page could not be fetched this time; another attempt may succeed. The message is shown to the submitter."""


@dataclass(frozen=True)
class Fetched:
    """A fetched page. `url` is the final URL after redirects; `media_type` has a charset if the server declared one."""

    url: str
    content: bytes
    media_type: str


def url_problem(url: str) -> str | None:
    """Returns why this is not the URL of a page, as a message for the submitter, or None. Makes no DNS query."""
    if len(url) > MAX_URL:
        return f"The web address has {len(url)} characters; the limit is {MAX_URL}."
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # `port` raises ValueError if it is not a number
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or re.search(r"[\s\\\x00-\x20\x7f-\x9f]", url) or "%" in host:
        return "This is not a valid web address. It must start with http:// or https://."
    if "@" in parts.netloc:
        return "Web addresses with a user name or password are not allowed. Remove them."
    return None


def fetch(url: str, within: float = DEADLINE_S) -> Fetched:
    """Fetches a page and follows at most MAX_REDIRECTS redirects.

    within: seconds for the whole exchange: DNS, connections, headers and bodies. Raises `Permanent` for an address or a response
    that cannot be used, `Snooze` if the server asks to wait, and `FetchFailed` if another attempt may succeed.
    """
    try:
        return run_within(lambda connections: _follow(url, connections), within)
    except TimeoutError:
        raise FetchFailed(f"{host_of(url)} took longer than {within:g} s to send the page.") from None


def run_within(exchange: Callable[[ExchangeSockets], Result], within: float) -> Result:
    """Runs `exchange` in a thread and returns its result. Raises `TimeoutError` after `within` seconds; closes all connections.

    A thread is used because nothing else limits a slow name server, or headers that arrive one byte at a time.
    """
    connections = ExchangeSockets()
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(exchange(connections))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(within)
    finally:
        connections.close()


class ExchangeSockets:
    """The open connections of one exchange. Another thread can close them all, whatever they are doing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._is_closed = False

    def add(self, connected: socket.socket) -> None:
        """Registers a connection."""
        with self._lock:
            self._sockets.append(connected)
            is_closed = self._is_closed
        if is_closed:
            self.close()

    def close(self) -> None:
        """Shuts all connections down, including those that are added later."""
        with self._lock:
            self._is_closed = True
            for connected in self._sockets:
                try:
                    socket.socket.shutdown(connected, socket.SHUT_RDWR)  # not SSLSocket's, which breaks a read in progress
                except OSError:
                    continue  # closed already


def _follow(url: str, connections: ExchangeSockets) -> Fetched:
    for _ in range(MAX_REDIRECTS + 1):
        with open_response(prepare_request("GET", url, headers=HEADERS), connections) as response:
            if not response.is_redirect:
                _check_status(response, host_of(url))
                return Fetched(url, _body(response), _media_type(response, url))
            url = urljoin(url, response.headers["Location"])
    raise Permanent(f"The page redirects more than {MAX_REDIRECTS} times. Use its final address.")


@contextmanager
def open_response(request: PreparedRequest, connections: ExchangeSockets) -> Iterator[Response]:
    """Sends one request and yields the response, its body unread. Without a session: no cookies, proxies or netrc passwords."""
    import requests
    from requests_hardened.ip_filter import InvalidIPAddress

    url = str(request.url)
    check_target(url)
    adapter = _adapter(url, connections)
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


def prepare_request(method: str, url: str, **options: Any) -> PreparedRequest:
    """Returns the request with the normalised URL that is checked and connected to. Raises `Permanent` for an invalid URL."""
    import requests

    if reason := url_problem(url):
        raise Permanent(reason)
    try:
        return requests.Request(method, url, **options).prepare()
    except (requests.RequestException, UnicodeError):
        raise Permanent("This is not a valid web address. Check it and submit it again.") from None


def check_target(url: str) -> None:
    """Checks that every address of the host is public and the port allowed. Raises `Permanent`, or `FetchFailed` for a DNS failure."""
    parts = urlsplit(url)
    host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
    addresses = [_address(text) for text in _resolve(host, port)]
    if not all(_is_allowed(address) for address in addresses):
        raise _not_public(host)
    if port not in PORTS and not all(address.is_loopback for address in addresses):
        raise Permanent(f"Port {port} is not allowed. Use an address on port 80, 443, 8080 or 8443.")


def _resolve(host: str, port: int) -> list[str]:
    last = host.rstrip(".").rpartition(".")[2]
    if re.fullmatch(r"0x[0-9a-f]*|\d+", last) and not re.fullmatch(r"\d+(\.\d+){3}", host):
        raise _not_public(host)  # such as 2130706433, 0x7f.1 or 127.1 for 127.0.0.1
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
    return address.is_global and not is_special and not any(address in network for network in BLOCKED_NETWORKS)


def _not_public(host: str) -> Permanent:
    """The same error for an unknown and a private host, so that it does not reveal which names the network has."""
    return Permanent(f"{host} is not a public site that can be reached from here. Check the address, or submit the text itself.")


def _adapter(url: str, connections: ExchangeSockets) -> Any:
    """An adapter of requests-hardened that checks the pinned address by the rules here and registers its connections."""
    from requests_hardened.ip_filter_adapter import IPFilterAdapter

    class Guarded(IPFilterAdapter):
        def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
            pool = super().get_connection_with_tls_context(*args, **kwargs)
            if not _is_allowed(_address(pool.host)):
                raise _not_public(host_of(url))
            pool.ConnectionCls = _registering(pool.ConnectionCls, connections)
            return pool

    return Guarded(is_https_proto=url.startswith("https:"), allow_loopback=settings().fetch_allow_loopback)


def _registering(connection: Any, connections: ExchangeSockets) -> Any:
    class RegisteringConnection(connection):
        def connect(self) -> None:
            super().connect()
            connections.add(self.sock)

    return RegisteringConnection


def _check_status(response: Response, host: str) -> None:
    status = response.status_code
    wait = retry_after_s(response.headers) if status in (429, 503) else None
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
    if kind in GENERIC_TYPES:
        kind = BY_EXTENSION.get(PurePosixPath(urlsplit(url).path).suffix.lower(), kind or "text/html")
    if not re.fullmatch(r"text/[\w.+-]{1,60}", kind) and kind not in READABLE:
        raise Permanent(
            f"The address leads to {kind[:80]!r}, which is not supported. Use a web page, a PDF, a Word document or a text file."
        )
    charset = re.search(r"charset=[\"']?([\w.:-]{1,40})", declared)
    return f"{kind}; charset={charset[1]}" if charset and charset[1] not in ("utf-8", "utf8") else kind


def host_of(url: str) -> str:
    """Returns the host of a URL for messages, or the start of the URL if it has none."""
    return urlsplit(url).hostname or url[:80]


def retry_after_s(headers: Mapping[str, str], longest: float = LONGEST_WAIT_S) -> float | None:
    """Returns the seconds of a `Retry-After` header, limited to 1 to `longest`; None if it is missing or invalid.

    The header has a number of seconds or a date (RFC 9110, section 10.2.3).
    """
    given = headers.get("Retry-After", "").strip()
    if not given:
        return None
    try:
        if given[0].isdigit():
            seconds = float(given)
        else:
            date = parsedate_to_datetime(given)
            seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return None
    return min(max(seconds, 1.0), longest)

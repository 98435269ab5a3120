"""Reads and applies a site's robots.txt (RFC 9309)."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from monolith.content.extract_text import text_of
from monolith.content.fetch import fetch
from monolith.job_types.registry import Permanent

if TYPE_CHECKING:
    from protego import Protego

USER_AGENT_NAME = "Intray"  # as in the User-Agent of `fetch`
MAX_ROBOTS = 500 * 1024  # bytes: the least that RFC 9309 requires


class Robots:
    """The rules of one site: which pages Intray may read, and the pause between two requests."""

    def __init__(self, site: str, rules: Protego) -> None:
        self.site = site
        self._rules = rules

    def allows(self, url: str) -> bool:
        return bool(self._rules.can_fetch(url, USER_AGENT_NAME))

    @property
    def delay(self) -> float:
        """The Crawl-delay in seconds; 0 if the site sets none."""
        return float(self._rules.crawl_delay(USER_AGENT_NAME) or 0)


def robots_of(url: str) -> Robots:
    """Fetches the rules of the site of this page. A site without a robots.txt allows everything.

    Raises `FetchFailed` or `Snooze` if robots.txt is temporarily unavailable: then no page of the site may be read.
    """
    from protego import Protego

    site = site_of(url)
    try:
        found = fetch(f"{site}/robots.txt")
        text = text_of(found.content[:MAX_ROBOTS], "text/plain")
    except Permanent:  # missing, empty or not text
        text = ""
    return Robots(site, Protego.parse(text))


def site_of(url: str) -> str:
    """Returns the scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()

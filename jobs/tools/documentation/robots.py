"""What a site asks of those who read it by machine: its robots.txt (RFC 9309), read before any of its pages."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from monolith.content.extract_text import text_of
from monolith.content.fetch import fetch
from monolith.job_types.registry import Permanent

if TYPE_CHECKING:
    from protego import Protego

NAME = "Intray"  # the product token, as `fetch` has it in its User-Agent
MAX_ROBOTS = 500 * 1024  # bytes: RFC 9309 asks for at least as many


class Robots:
    """The rules of one site: which of its pages we may read, and how long to pause between two."""

    def __init__(self, site: str, rules: Protego) -> None:
        self.site = site
        self._rules = rules

    def allows(self, url: str) -> bool:
        return bool(self._rules.can_fetch(url, NAME))

    @property
    def delay(self) -> float:
        """Seconds between two requests; 0 where the site does not say."""
        return float(self._rules.crawl_delay(NAME) or 0)


def robots_of(url: str) -> Robots:
    """The rules for the site of this page. A site without a robots.txt allows everything.

    Raises `FetchFailed` or `Later` when the site cannot say just now: then nothing of it may be read.
    """
    from protego import Protego

    site = site_of(url)
    try:
        found = fetch(f"{site}/robots.txt")
        text = text_of(found.content[:MAX_ROBOTS], "text/plain")
    except Permanent:  # not there, empty, or no text
        text = ""
    return Robots(site, Protego.parse(text))


def site_of(url: str) -> str:
    """Scheme, host and port of an address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()

"""Finds the links of a page to other pages of the same site, the most relevant first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from mimetypes import guess_type
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

from monolith.content.extract_text import tree_of
from monolith.content.fetch import READABLE, Fetched, url_problem

MAX_LINKS = 5_000  # of one page; no page for people has more


def links_of(page: Fetched) -> list[str]:
    """Returns the URLs of the same site that the page links, without duplicates and fragments.

    Pages in the same folder come first. URLs that differ from an earlier one only in their query come last, because calendars and
    filters link to themselves without end.
    """
    tree = tree_of(page.content, page.media_type)
    if tree is None or _asks_not_to_follow(tree):
        return []
    found = dict.fromkeys(_same_site_links(tree, page.url))
    found.pop(urldefrag(page.url).url, None)
    paths = {_path(page.url)}
    folder = urlsplit(page.url).path.rpartition("/")[0] + "/"
    ranked = []
    for place, url in enumerate(found):
        is_variant = _path(url) in paths
        paths.add(_path(url))
        ranked.append((is_variant, not urlsplit(url).path.startswith(folder), place, url))
    return [entry[-1] for entry in sorted(ranked)]


def is_same_site(url: str, other: str) -> bool:
    """Whether two URLs have the same host and port, with or without `www.` and TLS."""
    return _host(url) == _host(other)


def _same_site_links(tree: Any, page_url: str) -> Iterator[str]:
    base = next((one.get("href") for one in tree.xpath("//base[@href]")), "")
    for link in islice(tree.iter("a"), MAX_LINKS):
        if (href := link.get("href")) and "nofollow" not in link.get("rel", "").lower():
            url = _joined(_joined(page_url, base), href)
            if url and is_same_site(url, page_url) and _is_text_type(url):
                yield url


def _joined(base: str, href: str) -> str:
    """The URL that a link leads to, without its fragment; empty if it is not valid."""
    try:
        url = urldefrag(urljoin(base, href.strip())).url
    except ValueError:
        return ""
    return "" if url_problem(url) else url


def _is_text_type(url: str) -> bool:
    """Whether the file extension suggests text: images, videos and archives are not requested."""
    kind = guess_type(urlsplit(url).path)[0]
    return kind is None or kind.startswith("text/") and kind not in ("text/css", "text/javascript") or kind in READABLE


def _asks_not_to_follow(tree: Any) -> bool:
    """Whether a robots meta tag asks not to follow the links."""
    directives = [one.get("content", "") for one in tree.iter("meta") if one.get("name", "").lower() == "robots"]
    return any(word in one.lower() for one in directives for word in ("nofollow", "none"))


def _host(url: str) -> tuple[str, int | None]:
    parts = urlsplit(url)
    port = parts.port if parts.port not in (80, 443) else None
    return (parts.hostname or "").removeprefix("www."), port


def _path(url: str) -> str:
    return urlsplit(url).path.rstrip("/")

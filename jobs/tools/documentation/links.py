"""The pages of the same site that a page links, those that belong to it most first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from mimetypes import guess_type
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

from monolith.content.extract_text import tree_of
from monolith.content.fetch import READABLE, Fetched, why_unfit

MAX_LINKS = 5_000  # that are looked at: no page for people has more


def links_of(page: Fetched) -> list[str]:
    """The addresses on the page's own site that it links, each once.

    First what stands under the page's own folder; last, addresses that differ from an earlier one in their query only: calendars
    and filters link themselves without end.
    """
    tree = tree_of(page.content, page.media_type)
    if tree is None or _is_closed(tree):
        return []
    found = dict.fromkeys(_own(tree, page.url))
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
    """Whether two addresses have the same host and port, with or without `www.` and TLS."""
    return _host(url) == _host(other)


def _own(tree: Any, page_url: str) -> Iterator[str]:
    base = next((one.get("href") for one in tree.xpath("//base[@href]")), "")
    for link in islice(tree.iter("a"), MAX_LINKS):
        if (href := link.get("href")) and "nofollow" not in link.get("rel", "").lower():
            url = _joined(_joined(page_url, base), href)
            if url and is_same_site(url, page_url) and _may_be_read(url):
                yield url


def _joined(base: str, href: str) -> str:
    """The address that a link leads to, without its fragment; nothing where it is none."""
    try:
        url = urldefrag(urljoin(base, href.strip())).url
    except ValueError:
        return ""
    return "" if why_unfit(url) else url


def _may_be_read(url: str) -> bool:
    """Whether the ending of the name leads to something with text in it: pictures, films and archives are not asked for."""
    kind = guess_type(urlsplit(url).path)[0]
    return kind is None or kind.startswith("text/") and kind not in ("text/css", "text/javascript") or kind in READABLE


def _is_closed(tree: Any) -> bool:
    """Whether the page asks that its links are not followed."""
    said = [one.get("content", "") for one in tree.iter("meta") if one.get("name", "").lower() == "robots"]
    return any(word in one.lower() for one in said for word in ("nofollow", "none"))


def _host(url: str) -> tuple[str, int | None]:
    parts = urlsplit(url)
    port = parts.port if parts.port not in (80, 443) else None
    return (parts.hostname or "").removeprefix("www."), port


def _path(url: str) -> str:
    return urlsplit(url).path.rstrip("/")

"""Read a page and the pages of its site that it links: a few, one at a time, as the site's robots.txt has it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from monolith.content.extract_text import text_of, title_of
from monolith.content.fetch import Fetched, FetchFailed, fetch
from monolith.job_types.registry import Permanent, Snooze

from .links import is_same_site, links_of
from .robots import Robots, robots_of, site_of

MAX_LINKED = 10
PAUSE_S = 0.5  # between two requests to a site that does not say
MAX_PAUSE_S = 10.0  # a site that asks for more is not read beyond the first page
READING_S = 90.0  # for the linked pages in all
PAGE_S = 10.0  # for one of them


@dataclass(frozen=True)
class CrawledPage:
    """A page as it was read: where it was found in the end, its title, and its text as Markdown."""

    url: str
    title: str
    text: str


@dataclass
class Site:
    """What was read, the named page first; `left_out` says of each page that was linked and is not here why."""

    first: Fetched
    pages: list[CrawledPage] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


Tell = Callable[[int, int], None]  # so many pages read, of at most so many


def crawl(url: str, most: int = MAX_LINKED, *, first: Fetched | None = None, tell: Tell = lambda read, of: None) -> Site:
    """The page at `url` (or as `first` has it already) and at most so many that it links. Links of those are not followed.

    Raises what `fetch` raises for the first page, and `Permanent` when robots.txt keeps us from it. What is wrong with a
    linked page costs that page alone.
    """
    robots = robots_of(url)
    page = first or _first(url, robots)
    if site_of(page.url) != robots.site:
        robots = robots_of(page.url)
    if not first:
        _check(page.url, robots)
    site = Site(page, [_read(page)])
    _add_linked(site, links_of(page), robots, most, tell)
    return site


def _first(url: str, robots: Robots) -> Fetched:
    _check(url, robots)
    return fetch(url)


def _check(url: str, robots: Robots) -> None:
    if not robots.allows(url):
        raise Permanent(f"{robots.site}/robots.txt does not allow programs to read this page. Submit its text or a file instead.")


def _read(page: Fetched) -> CrawledPage:
    return CrawledPage(page.url, title_of(page.content, page.media_type) or page.url, text_of(page.content, page.media_type))


def _add_linked(site: Site, links: list[str], robots: Robots, most: int, tell: Tell) -> None:
    pause = max(PAUSE_S, robots.delay)
    if links and most and pause > MAX_PAUSE_S:
        site.left_out.append(f"The site asks for {pause:g} s between requests, so linked pages were not read.")
        return
    allowed = [link for link in links if robots.allows(link)]
    if len(allowed) < len(links):
        site.left_out.append(f"robots.txt blocks {len(links) - len(allowed)} of the {len(links)} linked pages.")
    give_up_at = time.monotonic() + READING_S
    tried = 0
    for tried, link in enumerate(allowed[: 2 * most], start=1):
        if len(site.pages) > most or time.monotonic() + pause > give_up_at:
            tried -= 1
            break
        tell(len(site.pages), min(most, len(allowed)) + 1)
        _pause(pause)
        if not _add(site, link, robots):
            break
    if tried < len(allowed):
        site.left_out.append(f"Linked pages of the site that were not read: {len(allowed) - tried} (limit: {most}).")


def _pause(seconds: float) -> None:
    """In short steps: a job that is stopped while it sleeps notices between two of them."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.2))


def _add(site: Site, url: str, robots: Robots) -> bool:
    """Read one linked page; whether to go on. A site that asks to be left alone is."""
    try:
        page = _page(url, robots)
    except Snooze as wait:
        site.left_out.append(f"{url}: {wait}")
        return False
    except (Permanent, FetchFailed) as error:
        site.left_out.append(f"{url}: {error}")
        return True
    if page.text in [one.text for one in site.pages]:
        site.left_out.append(f"{url}: same text as another page.")
    else:
        site.pages.append(page)
    return True


def _page(url: str, robots: Robots) -> CrawledPage:
    page = fetch(url, within=PAGE_S)
    if not is_same_site(page.url, url):
        raise Permanent("It redirects to another site.")
    if not robots.allows(page.url):
        raise Permanent("It redirects to a page that robots.txt blocks.")
    return _read(page)

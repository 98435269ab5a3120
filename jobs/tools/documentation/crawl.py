"""Crawls a page and a few linked pages of the same site, one at a time, as the site's robots.txt allows."""

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
PAUSE_S = 0.5  # between two requests, unless robots.txt sets a Crawl-delay
MAX_PAUSE_S = 10.0  # with a longer Crawl-delay, only the first page is read
CRAWL_S = 90.0  # for all linked pages
PAGE_S = 10.0  # for one linked page


@dataclass(frozen=True)
class CrawledPage:
    """A page: its URL after redirects, its title, and its text as Markdown."""

    url: str
    title: str
    text: str


@dataclass
class CrawledSite:
    """The pages that were read, the requested one first. `left_out` says which linked pages were not read, and why."""

    first: Fetched
    pages: list[CrawledPage] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


OnProgress = Callable[[int, int], None]  # pages read, pages to read at most


def crawl(
    url: str, max_linked: int = MAX_LINKED, *, first: Fetched | None = None, on_progress: OnProgress = lambda read, of: None
) -> CrawledSite:
    """Reads the page at `url` (or takes `first`) and at most `max_linked` pages that it links; links on those are not followed.

    Raises what `fetch` raises for the first page, and `Permanent` if robots.txt blocks it. A linked page that cannot be read is
    left out.
    """
    robots = robots_of(url)
    if not first:
        _check_allowed(url, robots)
    page = first or fetch(url)
    if site_of(page.url) != robots.site:
        robots = robots_of(page.url)
    if not first:
        _check_allowed(page.url, robots)
    site = CrawledSite(page, [_crawled(page)])
    _add_linked(site, links_of(page), robots, max_linked, on_progress)
    return site


def _check_allowed(url: str, robots: Robots) -> None:
    if not robots.allows(url):
        raise Permanent(f"{robots.site}/robots.txt does not allow programs to read this page. Submit its text or a file instead.")


def _crawled(page: Fetched) -> CrawledPage:
    return CrawledPage(page.url, title_of(page.content, page.media_type) or page.url, text_of(page.content, page.media_type))


def _add_linked(site: CrawledSite, links: list[str], robots: Robots, max_linked: int, on_progress: OnProgress) -> None:
    pause = max(PAUSE_S, robots.delay)
    if links and max_linked and pause > MAX_PAUSE_S:
        site.left_out.append(f"The site asks for {pause:g} s between requests, so linked pages were not read.")
        return
    allowed = [link for link in links if robots.allows(link)]
    if len(allowed) < len(links):
        site.left_out.append(f"robots.txt blocks {len(links) - len(allowed)} of the {len(links)} linked pages.")
    give_up_at = time.monotonic() + CRAWL_S
    tried = 0
    for tried, link in enumerate(allowed[: 2 * max_linked], start=1):
        if len(site.pages) > max_linked or time.monotonic() + pause > give_up_at:
            tried -= 1
            break
        on_progress(len(site.pages), min(max_linked, len(allowed)) + 1)
        _pause(pause)
        if not _add_page(site, link, robots):
            break
    if tried < len(allowed):
        site.left_out.append(f"Linked pages of the site that were not read: {len(allowed) - tried} (limit: {max_linked}).")


def _pause(seconds: float) -> None:
    """Sleeps in short steps, between which a job that is stopped notices it."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.2))


def _add_page(site: CrawledSite, url: str, robots: Robots) -> bool:
    """Reads one linked page. Returns False if the site asks to wait: then no more pages are read."""
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
    return _crawled(page)

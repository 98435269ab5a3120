"""Reading a site politely: what is read, in which order, and what keeps us from it. The sites are real servers on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from time import monotonic

import pytest

from jobs.tools.documentation import crawl as crawling
from jobs.tools.documentation.crawl import crawl
from monolith.config import settings
from monolith.content.fetch import FetchFailed
from monolith.job_types.registry import Permanent, Snooze
from tests.support.web_site import HTML, Site

ROBOTS = {"Content-Type": "text/plain"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pages of this machine may be read, and with hardly a pause between them."""
    monkeypatch.setenv("SECRET_KEY", "for tests")
    monkeypatch.setenv("FETCH_ALLOW_LOOPBACK", "1")
    monkeypatch.setattr(crawling, "PAUSE_S", 0.001)
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


def links(*hrefs: str) -> str:
    return "<p>Hello, this is a page.</p>" + "".join(f'<a href="{href}">x</a>' for href in hrefs)


def robots(site: Site, text: str) -> None:
    site.answers["/robots.txt"] = (200, ROBOTS, text.encode())


def test_the_page_and_those_that_it_links_are_read_once_each_after_robots_txt(site: Site) -> None:
    site.page(
        "/docs/", links("b", "#top", "b#part", "/a", "mailto:x@example.org", "javascript:alert(1)", "/photo.png", "/docs/"), title="Docs"
    )
    site.page("/docs/b", "<h1>B</h1><p>All about b.</p>" + links("/deeper"), title="Page B")
    site.page("/a", "<p>All about a.</p>")
    found = crawl(f"{site.url}/docs/")
    assert site.paths == ["/robots.txt", "/docs/", "/docs/b", "/a"]
    assert [(page.url, page.title) for page in found.pages] == [
        (f"{site.url}/docs/", "Docs"),
        (f"{site.url}/docs/b", "Page B"),
        (f"{site.url}/a", f"{site.url}/a"),
    ]
    assert "# B" in found.pages[1].text and found.left_out == []


def test_a_link_trap_costs_ten_pages_and_real_pages_go_before_it(site: Site) -> None:
    site.page("/", links(*(f"/calendar?day={day}" for day in range(500)), "/guide"))
    for day in range(500):
        site.page(f"/calendar?day={day}", f"<p>Day {day}.</p>" + links(f"/calendar?day={day + 1000}"))
    site.page("/guide", "<p>The guide.</p>")
    found = crawl(f"{site.url}/")
    assert len(found.pages) == 11
    assert site.paths[2:4] == ["/calendar?day=0", "/guide"]
    assert not any("day=1000" in path for path in site.paths)
    assert "Linked pages of the site that were not read: 491 (limit: 10)." in found.left_out


def test_a_site_of_dead_links_is_not_asked_for_all_of_them(site: Site) -> None:
    site.page("/", links(*(f"/gone/{number}" for number in range(100))))
    found = crawl(f"{site.url}/", 3)
    assert len([path for path in site.paths if path.startswith("/gone")]) == 6
    assert found.left_out[-1].endswith("not read: 94 (limit: 3).")


def test_pages_with_the_same_text_are_read_once(site: Site) -> None:
    site.page("/", links("/a", "/b"))
    for path in ("/a", "/b"):
        site.page(path, "<p>Always the same.</p>")
    found = crawl(f"{site.url}/")
    assert [page.url for page in found.pages] == [f"{site.url}/", f"{site.url}/a"]
    assert found.left_out == [f"{site.url}/b: same text as another page."]


@pytest.mark.parametrize(("code", "words"), [(404, "has no page"), (403, "does not show this page")])
def test_a_page_that_is_not_to_be_had_says_why(site: Site, code: int, words: str) -> None:
    site.answers["/x"] = (code, HTML, b"no")
    with pytest.raises(Permanent, match=words):
        crawl(f"{site.url}/x")


def test_a_linked_page_that_fails_costs_itself_alone(site: Site) -> None:
    site.page("/", links("/gone", "/broken", "/empty", "/picture", "/fine"))
    site.answers["/broken"] = (500, HTML, b"oops")
    site.answers["/empty"] = (200, HTML, b" ")
    site.answers["/picture"] = (200, {"Content-Type": "image/png"}, b"\x89PNG")
    site.page("/fine", "<p>All is fine.</p>")
    found = crawl(f"{site.url}/")
    assert [page.url for page in found.pages] == [f"{site.url}/", f"{site.url}/fine"]
    assert [note.removeprefix(site.url).partition(":")[0] for note in found.left_out] == ["/gone", "/broken", "/empty", "/picture"]


def test_a_site_that_asks_to_be_left_alone_is(site: Site) -> None:
    site.page("/", links("/busy", "/fine"))
    site.answers["/busy"] = (429, {**HTML, "Retry-After": "60"}, b"")
    site.page("/fine", "<p>All is fine.</p>")
    assert [page.url for page in crawl(f"{site.url}/").pages] == [f"{site.url}/"]
    assert "/fine" not in site.paths


def test_a_first_page_that_asks_to_wait_parks_the_job(site: Site) -> None:
    site.answers["/"] = (503, {**HTML, "Retry-After": "60"}, b"")
    with pytest.raises(Snooze):
        crawl(f"{site.url}/")


def test_what_robots_txt_disallows_is_not_asked_for(site: Site) -> None:
    robots(site, "User-agent: *\nDisallow: /secret\nAllow: /secret/but-open\nDisallow: /*.pdf$")
    site.page("/", links("/secret/a", "/secret/but-open", "/file.pdf"))
    site.page("/secret/but-open", "<p>Open to all.</p>")
    found = crawl(f"{site.url}/")
    assert site.paths == ["/robots.txt", "/", "/secret/but-open"]
    assert found.left_out == ["robots.txt blocks 2 of the 3 linked pages."]


def test_a_first_page_that_robots_txt_disallows_is_refused_before_it_is_asked_for(site: Site) -> None:
    robots(site, "User-agent: Intray\nDisallow: /\n\nUser-agent: *\nAllow: /")
    with pytest.raises(Permanent, match="robots.txt does not allow"):
        crawl(f"{site.url}/")
    assert site.paths == ["/robots.txt"]


@pytest.mark.parametrize("answer", [(404, HTML, b"no"), (403, HTML, b"no"), (200, ROBOTS, b" "), (200, ROBOTS, b"\x00\x01\xff" * 50)])
def test_a_site_without_rules_that_can_be_read_allows_everything(site: Site, answer: tuple[int, dict[str, str], bytes]) -> None:
    site.answers["/robots.txt"] = answer
    assert len(crawl(f"{site.url}/").pages) == 1


def test_a_site_that_cannot_say_its_rules_now_is_not_read_now(site: Site) -> None:
    site.answers["/robots.txt"] = (500, HTML, b"oops")
    with pytest.raises(FetchFailed):
        crawl(f"{site.url}/")
    assert site.paths == ["/robots.txt"]


def test_the_crawl_delay_is_kept(site: Site) -> None:
    robots(site, "User-agent: *\nCrawl-delay: 0.2")
    site.page("/", links("/a", "/b"))
    times: list[float] = []
    for path in ("/a", "/b"):
        site.page(path, f"<p>All about {path}.</p>")
    crawl(f"{site.url}/", on_progress=lambda read, of: times.append(monotonic()))
    assert len(times) == 2 and all(after - before >= 0.2 for before, after in pairwise(times))


def test_a_delay_beyond_reason_leaves_the_first_page_alone(site: Site) -> None:
    robots(site, "User-agent: *\nCrawl-delay: 3600")
    site.page("/", links("/a"))
    found = crawl(f"{site.url}/")
    assert len(found.pages) == 1 and "3600 s" in found.left_out[0]


def test_a_redirect_to_another_site_leaves_a_linked_page_out(site: Site) -> None:
    with Site() as other:
        site.page("/", links("/out"))
        site.answers["/out"] = (302, {"Location": f"{other.url}/"}, b"")
        found = crawl(f"{site.url}/")
    assert len(found.pages) == 1
    assert found.left_out == [f"{site.url}/out: It redirects to another site."]


def test_a_first_page_that_has_moved_is_read_by_the_rules_of_where_it_is(site: Site) -> None:
    with Site() as other:
        site.answers["/"] = (301, {"Location": f"{other.url}/new"}, b"")
        other.page("/new", links("/a"))
        other.page("/a", "<p>All about a.</p>")
        assert [page.url for page in crawl(f"{site.url}/").pages] == [f"{other.url}/new", f"{other.url}/a"]
        robots(other, "User-agent: *\nDisallow: /new")
        with pytest.raises(Permanent, match="robots.txt does not allow"):
            crawl(f"{site.url}/")


@pytest.mark.parametrize("closed", ['<meta name="robots" content="noindex, nofollow">', '<meta name="Robots" content="NONE">'])
def test_a_page_that_asks_not_to_follow_its_links_is_read_alone(site: Site, closed: str) -> None:
    site.page("/", closed + links("/a"))
    site.page("/a", "<p>All about a.</p>")
    assert len(crawl(f"{site.url}/").pages) == 1


def test_a_link_marked_nofollow_and_links_elsewhere_are_not_followed(site: Site) -> None:
    site.page("/", '<a rel="ugc nofollow" href="/a">x</a><a href="http://example.com/">y</a><a href="http://[">z</a><p>Hello there.</p>')
    assert len(crawl(f"{site.url}/").pages) == 1
    assert site.paths == ["/robots.txt", "/"]


def test_an_empty_page_and_a_huge_one_are_refused(site: Site) -> None:
    site.answers["/empty"] = (200, HTML, b"<html><body></body></html>")
    site.answers["/huge"] = (200, HTML, b"x" * (11 * 1024 * 1024))
    with pytest.raises(Permanent, match="no text"):
        crawl(f"{site.url}/empty")
    with pytest.raises(Permanent, match="larger than 10 MB"):
        crawl(f"{site.url}/huge")


def test_pages_in_other_encodings_are_read(site: Site) -> None:
    site.answers["/"] = (
        200,
        {"Content-Type": "text/html; charset=windows-1251"},
        links("/j").encode() + "<p>Привет, мир.</p>".encode("cp1251"),
    )
    site.answers["/j"] = (200, HTML, '<meta charset="shift_jis"><p>船は木でできている。</p>'.encode("shift_jis"))
    first, second = crawl(f"{site.url}/").pages
    assert "Привет, мир." in first.text and "船は木でできている。" in second.text


def test_the_number_of_linked_pages_is_the_submitters(site: Site) -> None:
    site.page("/", links("/a", "/b"))
    site.page("/a", "<p>All about a.</p>")
    assert len(crawl(f"{site.url}/", 0).pages) == 1
    assert len(crawl(f"{site.url}/", 1).pages) == 2

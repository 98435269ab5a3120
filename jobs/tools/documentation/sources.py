"""Splits a site, a document or a project into the sources that a documentation is written from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from monolith.content.extract_text import text_of
from monolith.job_types.registry import Document

from . import outline
from .crawl import CrawledSite
from .outline import Section

MAX_SECTIONS = 60  # of a document
MAX_SECTIONS_OF_PAGE = 8


@dataclass(frozen=True)
class Source:
    """One page, section or file. `id` is how the language model refers to it; `url` is where it can be read, if known."""

    id: str
    kind: str
    title: str
    url: str | None
    text: str
    sections: tuple[Section, ...] = ()

    def as_result(self) -> dict[str, str | None]:
        return {"id": self.id, "kind": self.kind, "title": self.title, "url": self.url}


@dataclass(frozen=True)
class SourceSet:
    """All sources. `main` are those that describe the whole; `left_out` says what was not read, and why."""

    title: str
    sources: list[Source]
    main: list[Source]
    left_out: list[str] = field(default_factory=list)
    about: str = ""  # facts that are not in its texts
    reference: str = ""  # Markdown, if it can be derived from the code
    reference_sources: tuple[Source, ...] = ()


def id_sequence() -> Callable[[], str]:
    """Returns a function that gives S1, S2 and so on, one at each call."""
    numbers = count(1)
    return lambda: f"S{next(numbers)}"


def site_sources(site: CrawledSite) -> SourceSet:
    """Makes a source of each page of a site."""
    next_id, sources, left_out = id_sequence(), list[Source](), list(site.left_out)
    for page in site.pages:
        found, more = outline.sections(page.text, MAX_SECTIONS_OF_PAGE)
        sources.append(Source(next_id(), "page", page.title, page.url, page.text, tuple(found)))
        if more:
            left_out.append(f"{page.url}: {more} more {'section is' if more == 1 else 'sections are'} not quoted.")
    return SourceSet(sources[0].title, sources, sources[:1], left_out)


def document_sources(document: Document) -> SourceSet:
    """Makes a source of each section of a document."""
    text, next_id = document.text, id_sequence()
    found, more = outline.sections(text, MAX_SECTIONS)
    title = document.title
    if title == document.filename and found and found[0].heading:
        title = found[0].heading
    sources = [Source(next_id(), "section", one.heading or title, document.source_url, one.text, (one,)) for one in found]
    if not sources:  # only headings
        sources = [Source(next_id(), "section", title, document.source_url, text, (Section("", 1, text),))]
    return SourceSet(title, sources, sources, [f"{more} more {'section was' if more == 1 else 'sections were'} not read."] if more else [])


def decode_text(content: bytes) -> str:
    """Decodes a file as text. Raises `Permanent` if it is not text."""
    return text_of(content, "text/plain")

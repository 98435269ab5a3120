"""What a documentation rests on: the pages of a site, the sections of a document, or the files of a project, each with its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from monolith.content.extract_text import text_of
from monolith.job_types.registry import Document

from . import outline
from .crawl import Site
from .outline import Section

MAX_SECTIONS = 60  # of a document
MAX_SECTIONS_OF_PAGE = 8


@dataclass(frozen=True)
class Source:
    """One page, section or file. `id` is what a model names it by; `url` is where it can be read, if anywhere."""

    id: str
    kind: str
    title: str
    url: str | None
    text: str
    sections: tuple[Section, ...] = ()

    def as_result(self) -> dict[str, str | None]:
        return {"id": self.id, "kind": self.kind, "title": self.title, "url": self.url}


@dataclass(frozen=True)
class Material:
    """All that was read. `main` are the sources that say what the whole is; `left_out` says what was not read, and why."""

    title: str
    sources: list[Source]
    main: list[Source]
    left_out: list[str] = field(default_factory=list)
    about: str = ""  # what is known of it beside its texts
    reference: str = ""  # in Markdown, where it can be made from the source with certainty
    reference_sources: tuple[Source, ...] = ()


def numbered() -> Callable[[], str]:
    """Gives S1, S2, ..."""
    numbers = count(1)
    return lambda: f"S{next(numbers)}"


def of_site(site: Site) -> Material:
    """A page and those that it links; each page is a source."""
    name, sources, left_out = numbered(), list[Source](), list(site.left_out)
    for page in site.pages:
        found, more = outline.sections(page.text, MAX_SECTIONS_OF_PAGE)
        sources.append(Source(name(), "page", page.title, page.url, page.text, tuple(found)))
        if more:
            left_out.append(f"{page.url}: {more} more {'section is' if more == 1 else 'sections are'} not quoted.")
    return Material(sources[0].title, sources, sources[:1], left_out)


def of_document(document: Document) -> Material:
    """A text; each of its headed sections is a source."""
    text, name = document.text, numbered()
    found, more = outline.sections(text, MAX_SECTIONS)
    title = document.title
    if title == document.filename and found and found[0].heading:
        title = found[0].heading
    sources = [Source(name(), "section", one.heading or title, document.source_url, one.text, (one,)) for one in found]
    if not sources:  # nothing but headings
        sources = [Source(name(), "section", title, document.source_url, text, (Section("", 1, text),))]
    return Material(title, sources, sources, [f"{more} more {'section was' if more == 1 else 'sections were'} not read."] if more else [])


def readable(content: bytes) -> str:
    """A file as text. Raises `Permanent` for one that is none."""
    return text_of(content, "text/plain")

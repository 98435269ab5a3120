"""A documentation: what it consists of, and how it is written down as Markdown, as HTML and as a result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from monolith.content.markdown_html import anchors_of, document_of, escaped, html_of, link, one_line

from .sources import Source

SHOWN_SOURCES = 5  # in the line under a section
NO_START = "The source does not say how to get started."
NO_REFERENCE = "The source has no reference."


@dataclass(frozen=True)
class Passage:
    """A piece of text and the sources it rests on. The text is Markdown that is harmless already."""

    text: str
    sources: tuple[Source, ...] = ()
    heading: str = ""
    level: int = 1
    is_quoted: bool = False

    def as_result(self) -> dict[str, Any]:
        said = {"heading": self.heading, "level": self.level, "text": self.text, "quoted": self.is_quoted}
        return {**said, "sources": [source.as_result() for source in self.sources]}


@dataclass(frozen=True)
class Documentation:
    """All of it. `basis` says how it was made, `left_out` what it does not cover."""

    title: str
    overview: Passage
    getting_started: Passage
    sections: list[Passage]
    reference: Passage
    sources: list[Source]
    engine: str
    basis: str
    left_out: list[str] = field(default_factory=list)

    def as_result(self) -> dict[str, Any]:
        parts = {"overview": self.overview, "getting_started": self.getting_started, "reference": self.reference}
        return {
            "title": self.title,
            "overview": self.overview.text,
            "getting_started": self.getting_started.text,
            "sections": [section.as_result() for section in self.sections],
            "reference": self.reference.text,
            "rests_on": {name: [source.as_result() for source in part.sources] for name, part in parts.items()},
            "quoted": [name for name, part in parts.items() if part.is_quoted],
            "sources": [source.as_result() for source in self.sources],
            "left_out": self.left_out,
            "engine": self.engine,
            "basis": self.basis,
        }


def html(doc: Documentation) -> str:
    """The whole as a page of its own."""
    return document_of(doc.title, html_of(markdown(doc), anchors=True))


def markdown(doc: Documentation) -> str:
    """The whole, with a table of contents whose links work wherever Markdown is shown."""
    chapters = _chapters(doc)
    titles = [one_line(chapter.heading) or "Untitled" for chapter in chapters]
    # The page has the title and this list's own heading before them, and they count when anchors are made.
    anchors = anchors_of([one_line(doc.title), "Contents", *titles])[2:]
    contents = [f"{'  ' * _depth(one)}- {link(title, f'#{anchor}')}" for one, title, anchor in zip(chapters, titles, anchors, strict=True)]
    body = [_chapter(one, title) for one, title in zip(chapters, titles, strict=True)]
    return "\n\n".join([f"# {escaped(doc.title)}", "## Contents", "\n".join(contents), *body]) + "\n"


def _chapters(doc: Documentation) -> list[Passage]:
    start = doc.getting_started if doc.getting_started.text else Passage(NO_START)
    reference = doc.reference if doc.reference.text else Passage(NO_REFERENCE)
    return [
        _named("Overview", doc.overview),
        _named("Getting started", start),
        *doc.sections,
        _named("Reference", reference),
        Passage(_sources(doc), heading="Sources"),
        Passage(_made(doc), heading="About this documentation"),
    ]


def _named(heading: str, passage: Passage) -> Passage:
    return Passage(passage.text, passage.sources, heading, 1, passage.is_quoted)


def _depth(passage: Passage) -> int:
    return 0 if passage.level <= 2 else 1


def _chapter(passage: Passage, title: str) -> str:
    text = "\n".join(f"> {line}".rstrip() for line in passage.text.split("\n")) if passage.is_quoted else passage.text
    return "\n\n".join(part for part in (f"{'##' if _depth(passage) == 0 else '###'} {escaped(title)}", text, _rests_on(passage)) if part)


def _rests_on(passage: Passage) -> str:
    """The line that says which sources a section rests on, with a link to each."""
    if not passage.sources:
        return ""
    shown = ", ".join(_reference(source) for source in passage.sources[:SHOWN_SOURCES])
    more = f" and {len(passage.sources) - SHOWN_SOURCES} more" if len(passage.sources) > SHOWN_SOURCES else ""
    return f"{'Source' if len(passage.sources) == 1 else 'Sources'}: {shown}{more}"


def _reference(source: Source) -> str:
    return link(f"{source.id} {source.title}", source.url or "#sources")


def _sources(doc: Documentation) -> str:
    return "\n".join(f"- {source.id}: {source.kind} {link(source.title, source.url)}" for source in doc.sources)


def _made(doc: Documentation) -> str:
    notes = "\n".join(f"- {escaped(note)}" for note in doc.left_out)
    return "\n\n".join(part for part in (f"{escaped(doc.basis)} (engine: {escaped(doc.engine)})", notes) if part)

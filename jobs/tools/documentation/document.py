"""The documentation that `generate_docs` returns, and its rendering as Markdown, as HTML and as a job result."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from monolith.content.markdown_html import anchors_of, escaped, html_of, html_page, link, one_line

from .sources import Source

MAX_LISTED_SOURCES = 5  # in the line under a section
NO_START = "The source does not say how to get started."
NO_REFERENCE = "The source has no reference."


@dataclass(frozen=True)
class Passage:
    """A piece of text and the sources it is based on. `text` is Markdown that is already sanitised; `level` is 1 to 6."""

    text: str
    sources: tuple[Source, ...] = ()
    heading: str = ""
    level: int = 1
    is_quoted: bool = False

    def as_result(self) -> dict[str, Any]:
        fields = {"heading": self.heading, "level": self.level, "text": self.text, "quoted": self.is_quoted}
        return {**fields, "sources": [source.as_result() for source in self.sources]}


@dataclass(frozen=True)
class Documentation:
    """The whole documentation. `basis` says how it was made, `left_out` what it does not cover."""

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
    """Returns the documentation as an HTML page."""
    return html_page(doc.title, html_of(markdown(doc), anchors=True))


def markdown(doc: Documentation) -> str:
    """Returns the documentation as Markdown, with a table of contents whose links work in every common renderer."""
    chapters = _chapters(doc)
    titles = [one_line(chapter.heading) or "Untitled" for chapter in chapters]
    # The title and the heading of this list come first on the page and count when anchors are numbered.
    anchors = anchors_of([one_line(doc.title), "Contents", *titles])[2:]
    contents = [f"{'  ' * _depth(one)}- {link(title, f'#{anchor}')}" for one, title, anchor in zip(chapters, titles, anchors, strict=True)]
    body = [_chapter(one, title) for one, title in zip(chapters, titles, strict=True)]
    return "\n\n".join([f"# {escaped(doc.title)}", "## Contents", "\n".join(contents), *body]) + "\n"


def _chapters(doc: Documentation) -> list[Passage]:
    notes = "\n".join(f"- {escaped(note)}" for note in doc.left_out)
    about = "\n\n".join(part for part in (f"{escaped(doc.basis)} (engine: {escaped(doc.engine)})", notes) if part)
    start = doc.getting_started if doc.getting_started.text else Passage(NO_START)
    reference = doc.reference if doc.reference.text else Passage(NO_REFERENCE)
    return [
        replace(doc.overview, heading="Overview", level=1),
        replace(start, heading="Getting started", level=1),
        *doc.sections,
        replace(reference, heading="Reference", level=1),
        Passage("\n".join(f"- {source.id}: {source.kind} {link(source.title, source.url)}" for source in doc.sources), heading="Sources"),
        Passage(about, heading="About this documentation"),
    ]


def _depth(passage: Passage) -> int:
    return 0 if passage.level <= 2 else 1


def _chapter(passage: Passage, title: str) -> str:
    text = "\n".join(f"> {line}".rstrip() for line in passage.text.split("\n")) if passage.is_quoted else passage.text
    return "\n\n".join(
        part for part in (f"{'##' if _depth(passage) == 0 else '###'} {escaped(title)}", text, _sources_line(passage)) if part
    )


def _sources_line(passage: Passage) -> str:
    """The line that names and links the sources of a section."""
    if not passage.sources:
        return ""
    shown = ", ".join(link(f"{source.id} {source.title}", source.url or "#sources") for source in passage.sources[:MAX_LISTED_SOURCES])
    more = f" and {len(passage.sources) - MAX_LISTED_SOURCES} more" if len(passage.sources) > MAX_LISTED_SOURCES else ""
    return f"{'Source' if len(passage.sources) == 1 else 'Sources'}: {shown}{more}"

"""Writes documentation without a language model: an outline of the sources with quoted excerpts."""

from __future__ import annotations

import re

from monolith.content.markdown_html import sanitise

from ..analysis import text_stats, verdict
from .document import Documentation, Passage
from .outline import excerpt
from .sources import Source, SourceSet

MAX_SECTIONS = 60
MAX_START, MAX_REFERENCE = 3, 8  # sections under "Getting started" and "Reference"
MAX_READ = 200_000  # characters from which the overview is chosen
STARTING = re.compile(
    r"getting.started|quick.?start|\binstall|\bset.?up\b|first steps|\busage\b|\btutorial|how to (?:use|start|run|begin)", re.IGNORECASE
)
REFERENCE = re.compile(
    r"\breference\b|\bapi\b|\boptions\b|\bparameters\b|\bconfiguration\b|\bsettings\b|\bcommands\b|\bendpoints\b|\bglossary\b"
    r"|environment variables|command.line",
    re.IGNORECASE,
)
BASIS = (
    "Created without a language model: the outline follows the source, all text is quoted from it, "
    "and the overview is its most important sentences."
)


def write(material: SourceSet, why: str = "") -> Documentation:
    """Returns the outline of the sources. First steps and the reference are recognised by their (English) headings.

    why: why the language model did not write it, if one is configured; it goes into `basis`.
    """
    pieces = [_quote(source, number) for source in material.sources for number in range(len(source.sections))]
    pieces = [piece for piece in pieces if piece.text]
    start = [piece for piece in pieces if STARTING.search(piece.heading)][:MAX_START]
    reference = [piece for piece in pieces if REFERENCE.search(piece.heading) and piece not in start][:MAX_REFERENCE]
    if material.reference:
        reference = []
    rest = [piece for piece in pieces if piece not in start and piece not in reference] or pieces
    left_out = [f"Sections that are not quoted: {len(rest) - MAX_SECTIONS}."] if len(rest) > MAX_SECTIONS else []
    return Documentation(
        title=material.title,
        overview=overview(material),
        getting_started=_joined(start),
        sections=rest[:MAX_SECTIONS],
        reference=reference_of(material) or _joined(reference),
        sources=material.sources,
        engine="local",
        basis=f"{why} {BASIS}".strip(),
        left_out=[*material.left_out, *left_out],
    )


def overview(material: SourceSet) -> Passage:
    """Returns the most important sentences of the main sources, with the sources they come from."""
    text = "\n\n".join(f"# {source.title}\n\n{source.text}" if source.kind == "section" else source.text for source in material.main)
    summary = verdict.summary(text_stats.analyse(text[:MAX_READ]))
    if not summary or material.about and len(summary) < 40:
        return Passage(sanitise(material.about or summary or material.title), tuple(material.main[:1] or material.sources[:MAX_START]))
    used = material.main
    if len(used) > 1:
        used = [source for source in used if _is_quoted_in(summary, source)]
    return Passage(sanitise(summary), tuple(used or material.main[:1]), is_quoted=True)


def reference_of(material: SourceSet) -> Passage | None:
    """Returns the reference that was derived from the code, if there is one."""
    return Passage(sanitise(material.reference), material.reference_sources) if material.reference else None


def _is_quoted_in(summary: str, source: Source) -> bool:
    """Whether the summary contains a sentence of the source."""
    return any(len(one.text) > 10 and one.text in summary for one in text_stats.analyse(source.text).sentences)


def _quote(source: Source, number: int) -> Passage:
    section = source.sections[number]
    level = section.level if len(source.sections) == 1 else 1 if number == 0 else 3
    return Passage(sanitise(excerpt(section.text), source.url), (source,), section.heading or source.title, level, is_quoted=True)


def _joined(pieces: list[Passage]) -> Passage:
    """Several quotes as one passage, each under its heading unless it is the only one."""
    sources = tuple(dict.fromkeys(source for piece in pieces for source in piece.sources))
    texts = [piece.text if len(pieces) == 1 else f"{sanitise(f'# {piece.heading}')}\n\n{piece.text}" for piece in pieces]
    return Passage("\n\n".join(texts), sources, is_quoted=bool(pieces))

"""Splits a text into its sections, and shortens sections to excerpts at block and sentence boundaries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from monolith.content.markdown_html import plain_text

from ..analysis import text_stats

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

EXCERPT = 1200  # characters
MAX_HEADING = 300  # characters
CUT = "[…]"
FENCES = ("```", "~~~")


@dataclass(frozen=True)
class Section:
    """A heading (empty for the text before the first), its level from 1 to 6, and the Markdown below it."""

    heading: str
    level: int
    text: str


def sections(text: str, most: int) -> tuple[list[Section], int]:
    """Returns at most `most` sections that have text, and the number of further ones.

    If there are too many headings, the deepest levels are merged into the sections above them.
    """
    marks = _headings(text)
    if not marks:
        found = _by_sentences(text)
    else:
        fitting = [depth for depth in range(6, 0, -1) if sum(mark[2] <= depth for mark in marks) <= most]
        found = _between(text, [mark for mark in marks if mark[2] <= (fitting[0] if fitting else 1)])
    found = [section for section in found if section.text.strip()]
    kept = [replace(one, heading=plain_text(one.heading[:MAX_HEADING])) for one in found[:most]] if marks else found[:most]
    return kept, len(found) - len(kept)


def excerpt(text: str, limit: int = EXCERPT) -> str:
    """Returns the beginning of a Markdown text, up to `limit` characters in whole blocks. A cut is marked with CUT."""
    text = text.strip()
    if len(text) <= limit:
        return text
    lines, kept = text.split("\n"), ""
    for block in (token for token in _parser().parse(text) if token.level == 0 and token.nesting != -1):
        piece = "\n".join(lines[: block.map[1]]) if block.map else ""
        if len(piece) > limit:
            break
        kept = piece or kept
    return f"{kept.rstrip() or _cut(text, limit)}\n\n{CUT}"


def _cut(text: str, limit: int) -> str:
    """The beginning of one long block, up to the end of a sentence, a word or a line of code (whose fence is closed)."""
    start = text[:limit]
    if text.startswith(FENCES):
        return f"{start.rpartition(chr(10))[0]}\n{text[:3]}"
    ends = [start.rfind(mark) + 1 for mark in (". ", "! ", "? ", "\n")]
    end = max(ends) if max(ends) > limit // 2 else start.rfind(" ")
    return start[:end].rstrip() if end > 0 else start


@cache
def _parser() -> MarkdownIt:
    """A parser of blocks only: their inline content is not needed here."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").enable("table")
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


def _headings(text: str) -> list[tuple[int, int, int, str]]:
    """The first line, the line after, the level and the Markdown of each heading."""
    tokens = _parser().parse(text)
    return [
        (token.map[0], token.map[1], int(token.tag[1]), inline.content)
        for token, inline in pairwise(tokens)
        if token.type == "heading_open" and token.level == 0 and token.map
    ]


def _between(text: str, marks: list[tuple[int, int, int, str]]) -> list[Section]:
    lines = text.split("\n")
    found = [Section("", 1, "\n".join(lines[: marks[0][0]]))]
    for mark, after in pairwise([*marks, (len(lines), 0, 0, "")]):
        found.append(Section(mark[3], mark[2], "\n".join(lines[mark[1] : after[0]])))
    return found


def _by_sentences(text: str) -> list[Section]:
    """The sections of a text that is not Markdown, by the headings that `text_stats` recognises."""
    found = text_stats.analyse(text)
    grouped = groupby(found.sentences, key=lambda one: one.section)
    return [
        Section(heading, 1, "".join(f"\n- {one.text}" if one.listed else f" {one.text}" for one in group)) for heading, group in grouped
    ]

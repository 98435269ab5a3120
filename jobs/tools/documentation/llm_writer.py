"""Writes documentation with a language model, which must name its sources. Its answer is as untrusted as the sources."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from monolith.config import settings
from monolith.content.markdown_html import one_line, sanitise
from monolith.job_types.registry import Job

from ..llm import client
from ..llm.prices import missing_price_note
from . import local_writer
from .document import Documentation, Passage
from .sources import Source, SourceSet

MAX_TEXT, MAX_SECTIONS = 8_000, 30
MIN_SHARE = 200  # characters of each source that the model must see to cite it
NO_SECTION = "No section names a source that was given. Name the ids of the sources that each rests on."


class KnownIds(validate.OneOf):
    """Puts the known ids into the schema without validating: unknown ids are dropped later, without asking the model again."""

    def __call__(self, value: Any) -> Any:
        return value


def write(job: Job, material: SourceSet) -> Documentation:
    """Returns the documentation that the model writes. Passages without a known source are left out, and `left_out` says so."""
    shares = _shares(material)
    question = "\n".join(
        json.dumps({"id": one.id, "title": one.title[:200], "text": text}, ensure_ascii=False)
        for one, text in zip(material.sources, shares, strict=False)
    )
    draft = client.ask(job, instructions=client.prompt("generate_docs"), document_text=question, schema=_schema(material.sources))
    return _checked(draft, material, _basis(material, shares))


def _shares(material: SourceSet) -> list[str]:
    """The part of each source that goes into the question: short sources whole, long ones share the remaining room."""
    room = int(client.MAX_DOCUMENT * 0.8)  # the rest is for titles and JSON syntax
    texts = [one.text for one in material.sources][: room // MIN_SHARE]
    given = {}
    for done, place in enumerate(sorted(range(len(texts)), key=lambda place: len(json.dumps(texts[place], ensure_ascii=False)))):
        share = max(0, room - 60 * (len(texts) - done)) // (len(texts) - done)
        text = texts[place][:share]
        while text and len(json.dumps(text, ensure_ascii=False)) > share:  # escapes count too
            text = text[: len(text) * 9 // 10]
        given[place] = text
        room -= len(json.dumps(given[place], ensure_ascii=False)) + 60
    return [given[place] for place in range(len(texts))]


def _schema(sources: list[Source]) -> type[Schema]:
    """The schema of the model's answer, with the ids that it may cite."""
    ids = fields.List(
        fields.String(validate=KnownIds([one.id for one in sources])), required=True, metadata={"description": "Ids of sources"}
    )
    text = fields.String(required=True, validate=validate.Length(max=MAX_TEXT))
    heading = fields.String(required=True, validate=validate.Length(1, 200))
    passage = Schema.from_dict({"text": text, "sources": ids}, name="Passage")
    section = Schema.from_dict({"heading": heading, "text": text, "sources": ids}, name="Section")

    class Draft(Schema):
        title = fields.String(required=True, validate=validate.Length(1, 200))
        overview = fields.Nested(passage, required=True)
        sections = fields.List(fields.Nested(section), required=True, validate=validate.Length(1, MAX_SECTIONS))
        getting_started = fields.Nested(passage, required=True)
        reference = fields.Nested(passage, required=True)

        @validates_schema
        def check_sources(self, data: dict[str, Any], **_: Any) -> None:
            """Requires at least one section with a known source; otherwise the client asks the model again."""
            if not any(_cited(one, sources) for one in data["sections"]):
                raise ValidationError(NO_SECTION, "sections")

    return Draft


def _cited(draft: dict[str, Any], sources: list[Source]) -> tuple[Source, ...]:
    """The known sources that the passage cites, by id (with any punctuation around it), title or URL."""
    known = {key.casefold(): source for source in sources for key in (source.title, source.url, source.id) if key}
    names = [str(name).strip(" []()#\"'`").casefold() for name in draft["sources"]]
    return tuple(dict.fromkeys(known[name] for name in names if name in known))


def _checked(draft: dict[str, Any], material: SourceSet, basis: str) -> Documentation:
    passages = {name: _passage(draft[name], material) for name in ("overview", "getting_started", "reference")}
    sections = [_passage(one, material) for one in draft["sections"]]
    kept = [one for one in sections if one]
    lost = sum(one is None for one in [*passages.values(), *sections])
    notes = [
        f"{lost} {'passage' if lost == 1 else 'passages'} of the model left out: no given source supports {'it' if lost == 1 else 'them'}."
    ]
    overview = passages["overview"]
    return Documentation(
        title=one_line(draft["title"]),
        overview=overview if overview and overview.text else local_writer.overview(material),
        getting_started=passages["getting_started"] or Passage(""),
        sections=kept,
        reference=local_writer.reference_of(material) or passages["reference"] or Passage(""),
        sources=material.sources,
        engine=f"openai:{settings().openai_model}",
        basis=basis,
        left_out=[*material.left_out, *(notes if lost else [])],
    )


def _passage(draft: dict[str, Any], material: SourceSet) -> Passage | None:
    """The passage with sanitised text; None if it has text but cites no known source."""
    text, sources = sanitise(draft["text"]), _cited(draft, material.sources)
    if text and not sources:
        return None
    return Passage(text, sources, one_line(draft.get("heading", "")))


def _basis(material: SourceSet, shares: list[str]) -> str:
    total, read = sum(len(one.text) for one in material.sources), sum(map(len, shares))
    part = "all of it" if read == total else f"{read:,} of its {total:,} characters"
    basis = f"Written by {settings().openai_model}, which read {part}. It can make mistakes: check what matters against the sources."
    return " ".join(one for one in (basis, missing_price_note()) if one)


def with_title(doc: Documentation, title: str | None) -> Documentation:
    """Returns the documentation with the submitter's title, if there is one."""
    return replace(doc, title=one_line(title)) if title and title.strip() else doc

"""A documentation written by a language model, from sources that it has to name. What it writes is as untrusted as they are."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from monolith.config import settings
from monolith.content.markdown_html import harmless, one_line
from monolith.job_types.registry import Job

from ..llm import client
from ..llm.prices import what_is_unknown
from ..llm.prompts import prompt
from . import local_writer
from .document import Documentation, Passage
from .sources import Material, Source

MAX_TEXT, MAX_SECTIONS = 8_000, 30
LEAST_OF_SOURCE = 200  # characters of each that a model has to see for naming it to mean anything
NO_SECTION = "No section names a source that was given. Name the ids of the sources that each rests on."


class Known(validate.OneOf):
    """Tells the model which ids there are. What it names besides is left out later, and costs no second question."""

    def __call__(self, value: Any) -> Any:
        return value


def written(job: Job, material: Material) -> Documentation:
    """The documentation as the model writes it. Passages that rest on none of our sources are left out, and it says so."""
    shares = _shares(material)
    asked = "\n".join(
        json.dumps({"id": one.id, "title": one.title[:200], "text": text}, ensure_ascii=False)
        for one, text in zip(material.sources, shares, strict=False)
    )
    draft = client.ask(job, instructions=prompt("generate_docs"), document_text=asked, schema=_schema(material.sources))
    return _checked(draft, material, _basis(material, shares))


def _shares(material: Material) -> list[str]:
    """As much of each source as fits into one question: short ones whole, and the long ones share what is left."""
    room = int(client.MAX_DOCUMENT * 0.8)  # the rest is for titles, and for what JSON adds
    texts = [one.text for one in material.sources][: room // LEAST_OF_SOURCE]
    given = {}
    for done, place in enumerate(sorted(range(len(texts)), key=lambda place: len(json.dumps(texts[place], ensure_ascii=False)))):
        share = max(0, room - 60 * (len(texts) - done)) // (len(texts) - done)
        given[place] = _that_fits(texts[place], share)
        room -= len(json.dumps(given[place], ensure_ascii=False)) + 60
    return [given[place] for place in range(len(texts))]


def _that_fits(text: str, share: int) -> str:
    """The beginning of a text that has so many characters in JSON."""
    text = text[:share]
    while text and len(json.dumps(text, ensure_ascii=False)) > share:
        text = text[: len(text) * 9 // 10]
    return text


def _schema(sources: list[Source]) -> type[Schema]:
    """What the model answers, with the ids that it may name."""
    ids = fields.List(fields.String(validate=Known([one.id for one in sources])), required=True, metadata={"description": "Ids of sources"})
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
        def rest_on_something(self, data: dict[str, Any], **_: Any) -> None:
            """At least one section names a source that there is; otherwise the model is asked once more."""
            if not any(_named(one, sources) for one in data["sections"]):
                raise ValidationError(NO_SECTION, "sections")

    return Draft


def _named(draft: dict[str, Any], sources: list[Source]) -> tuple[Source, ...]:
    """Those of our sources that the passage names: by id, however it is dressed, by title or by address."""
    known = {key.casefold(): source for source in sources for key in (source.title, source.url, source.id) if key}
    names = [str(name).strip(" []()#\"'`").casefold() for name in draft["sources"]]
    return tuple(dict.fromkeys(known[name] for name in names if name in known))


def _checked(draft: dict[str, Any], material: Material, basis: str) -> Documentation:
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


def _passage(draft: dict[str, Any], material: Material) -> Passage | None:
    """What the model wrote, made harmless; None when it has words, and rests on nothing that we have."""
    text, sources = harmless(draft["text"]), _named(draft, material.sources)
    if text and not sources:
        return None
    return Passage(text, sources, one_line(draft.get("heading", "")))


def _basis(material: Material, shares: list[str]) -> str:
    total, read = sum(len(one.text) for one in material.sources), sum(map(len, shares))
    part = "all of it" if read == total else f"{read:,} of its {total:,} characters"
    said = f"Written by {settings().openai_model}, which read {part}. It can make mistakes: check what matters against the sources."
    return " ".join(one for one in (said, what_is_unknown()) if one)


def with_title(doc: Documentation, title: str | None) -> Documentation:
    """The same under the title that its submitter gave it."""
    return replace(doc, title=one_line(title)) if title and title.strip() else doc

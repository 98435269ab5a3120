"""The job type `analyze`: summary, strengths, limitations, use cases and maturity of a document or tool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from marshmallow import Schema, fields, validate

from monolith.content.extract_text import text_of, title_of
from monolith.content.fetch import fetch
from monolith.job_types.registry import Job, Permanent, exponential, job_type

from .tools.analysis import maturity_signs, text_stats, verdict
from .tools.llm import client
from .tools.params import FormParams, check_url


class Params(FormParams):
    url = fields.String(
        validate=check_url,
        metadata={"title": "Address", "description": "The page to analyse, if no document is given. Starts with http:// or https://."},
    )
    text = fields.String(
        validate=validate.Length(max=1_000_000),
        metadata={"title": "Text", "description": "The text to analyse, if no document is given."},
    )
    name = fields.String(
        validate=validate.Length(max=200),
        metadata={
            "title": "Name of the tool",
            "description": "The tool or topic that the document is about.",
        },
    )
    description = fields.String(
        validate=validate.Length(max=10_000),
        metadata={"title": "Description", "description": "What you know about it. Used together with the document, or on its own."},
    )


class Verdict(Schema):
    """The answer of the language model."""

    summary = fields.String(
        required=True, validate=validate.Length(1, 3000), metadata={"description": "What it is, in two to five sentences."}
    )
    strengths = fields.List(fields.String(validate=validate.Length(max=600)), required=True, validate=validate.Length(max=12))
    limitations = fields.List(fields.String(validate=validate.Length(max=600)), required=True, validate=validate.Length(max=12))
    use_cases = fields.List(fields.String(validate=validate.Length(max=600)), required=True, validate=validate.Length(max=12))
    maturity_score = fields.Float(required=True, validate=validate.Range(0, 1))


@job_type(
    queue="default",
    params=Params,
    takes="document",
    alternatives=("url", "text", "description"),
    max_attempts=3,
    backoff=exponential(2),
    timeout=120,
    io_bound=client.configured,
)
def analyze(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Summarise a document or a tool and rate its maturity.

    Reads a document, a web page or a text and gives a summary, strengths, limitations, use cases and a maturity score
    from 0 to 1, with key sentences, key terms, sections, readability and what is missing. If a language
    model is configured, it writes the result; otherwise everything is quoted from the document and marked `engine: local`.
    """
    job.progress(5, "reading")
    source = _read(job, params)
    job.progress(40, "analysing")
    found = text_stats.analyse(source.text)
    kind = maturity_signs.kind_of(found)
    signs = maturity_signs.signs_of(found, kind)
    answer, why = _ask(job, source, params)
    assessment = answer or _quote(found, kind, signs, why)
    job.progress(90, "writing")
    return {
        **assessment,
        "document_type": kind,
        "language": found.language,
        "key_sentences": [one.text for one in text_stats.key_sentences(found)],
        "key_terms": text_stats.key_terms(found),
        "sections": list(dict.fromkeys(found.sections))[:100],
        "readability": text_stats.reading_ease(found),
        "signs": [{"name": sign["name"], "found": sign["found"]} for sign in signs],
        "missing": [sign["missing"] for sign in signs if not sign["found"]],
        "source": {**source.facts, "characters": len(source.text), "words": len(found.words)},
    }


@dataclass(frozen=True)
class _Source:
    text: str
    facts: dict[str, str | None]


def _read(job: Job, params: dict[str, Any]) -> _Source:
    """The input as one text: the description, then the document, or else the page, or else the text."""
    main = _main_source(job, params)
    text = "\n\n".join(part for part in (params.get("description"), main.text) if part)
    if not text.strip():
        raise Permanent("There is nothing to analyse. Give a document, a URL, a text or a description.")
    title = params.get("name") or main.facts["title"]
    return _Source(text, {**main.facts, "title": title})


def _main_source(job: Job, params: dict[str, Any]) -> _Source:
    document = job.document
    if document is not None:
        text = document.text  # first: reading it fetches a page, which sets its title and media type
        return _Source(text, _facts(document.title, document.source_url, document.id, document.media_type))
    if url := params.get("url"):
        page = fetch(url)
        title = title_of(page.content, page.media_type)
        return _Source(text_of(page.content, page.media_type), _facts(title, page.url, None, page.media_type))
    return _Source(params.get("text", ""), _facts(None, None, None, "text/plain"))


def _facts(title: str | None, url: str | None, document_id: str | None, media_type: str) -> dict[str, str | None]:
    return {"title": title, "url": url, "document_id": document_id, "media_type": media_type.partition(";")[0]}


def _ask(job: Job, source: _Source, params: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The model's assessment. None without a model; if the budget is used up, also why."""
    heading = f"The subject is called: {params['name']}\n\n" if params.get("name") else ""
    answer, why = client.ask_if_possible(job, prompt_name="analyze", document_text=heading + source.text, schema=Verdict)
    return {**answer, **client.credit(source.text)} if answer else None, why


def _quote(found: text_stats.TextAnalysis, kind: str, signs: list[dict[str, str | bool]], why: str = "") -> dict[str, Any]:
    has = sum(bool(sign["found"]) for sign in signs)
    basis = f"Quoted from the document using cue words. The maturity score is {has} of {len(signs)} signs of a good {_NOUNS[kind]}."
    if found.language != "en":
        basis += " The cue words are English and the document does not seem to be, so results may be incomplete."
    return {
        "summary": verdict.summary(found),
        "strengths": verdict.strengths(found),
        "limitations": verdict.limitations(found),
        "use_cases": verdict.use_cases(found),
        "maturity_score": round(has / len(signs), 2),
        "engine": "local",
        "basis": f"{why} {basis}".strip(),
    }


_NOUNS = {"software": "description of software", "report": "report", "text": "text"}

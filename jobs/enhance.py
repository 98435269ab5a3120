"""Score a story: how much hype, how ethical, what to believe, and what it says in easy words. At once by words, then by a model."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from monolith.job_types.registry import Job, Permanent, SubmittedDocument, exponential, job_type

from .tools.analysis import story_scores
from .tools.analysis.story_scores import Story
from .tools.llm import client
from .tools.llm.prompts import prompt

MAX_CONTENT = 100_000
READABLE = ("text/plain", "text/markdown", "text/x-rst")  # media types that are their own text
SCORES = ("hype_score", "ethics_score", "reality_check", "eli5_summary")


class Params(Schema):
    title = fields.String(
        load_default="", validate=validate.Length(max=200), metadata={"description": "Headline, if different from the document's title"}
    )
    content = fields.String(
        load_default="",
        validate=validate.Length(max=MAX_CONTENT),
        metadata={"description": "The story as text, if no document is given."},
    )
    sector = fields.String(
        load_default="", validate=validate.Length(max=60), metadata={"description": "The field it belongs to, such as health or energy"}
    )
    impact_tags = fields.List(
        fields.String(validate=validate.Length(1, 60)),
        load_default=list,
        validate=validate.Length(max=20),
        metadata={"description": "What it may affect, such as privacy or jobs; defaults to the document's tags."},
    )


class Refined(Schema):
    """What the LLM answers."""

    hype_score = fields.Float(required=True, validate=validate.Range(0, 10))
    ethics_score = fields.Float(required=True, validate=validate.Range(0, 10))
    reality_check = fields.String(required=True, validate=validate.Length(1, 2000))
    eli5_summary = fields.String(required=True, validate=validate.Length(1, 1000))


def first_scores(params: dict[str, Any], document: SubmittedDocument | None) -> dict[str, Any] | None:
    """What words alone say; None for a file that a worker has to read first."""
    if document is None:
        return story_scores.scores(_story(params, "", params["content"], []))
    if document.media_type.partition(";")[0] not in READABLE or not document.head:
        return None
    return story_scores.scores(_story(params, document.title, document.head.decode(errors="ignore"), document.tags))


def story_of(params: dict[str, Any]) -> list[Any]:
    """What makes it the same story: any change of its words or tags makes another."""
    return [params["title"].strip(), params["content"].strip(), params["sector"].strip().lower(), sorted(set(params["impact_tags"]))]


@job_type(
    queue="default",
    params=Params,
    takes="document",
    alternatives=("content",),
    max_attempts=3,
    backoff=exponential(2),
    timeout=120,
    io_bound=client.configured,
    preview=first_scores,
    identity=story_of,
)
def enhance(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Rate a news story for hype and ethics.

    Returns a hype score and an ethics score from 0 to 10, a reality check and a summary in plain language. The initial scores are
    based on word counts and are part of the response to the submission (`preview`); a language model, if configured, refines
    them. The result keeps both, as `original` and `refined`. Submitting the same story again returns the same job.
    """
    job.progress(10, "reading")
    story = _told(job, params)
    original = job.preview or story_scores.scores(story)
    job.progress(40, "refining")
    refined, why = _refine(job, story)
    best = refined or original
    return {
        **{name: best[name] for name in (*SCORES, "engine")},
        "basis": f"{why} {_basis(story, refined)}".strip(),
        "original": original,
        "refined": refined,
        "story": {"title": story.title, "sector": story.sector, "impact_tags": list(story.impact_tags), "characters": len(story.content)},
    }


def _told(job: Job, params: dict[str, Any]) -> Story:
    document = job.document
    text = document.text if document else params["content"]
    if not text.strip():
        raise Permanent("There is no story. Give a document, or the text as content.")
    return _story(params, document.title if document else "", text, document.tags if document else [])


def _story(params: dict[str, Any], title: str, content: str, tags: list[str]) -> Story:
    return Story(params["title"] or title, content, params["sector"], tuple(params["impact_tags"] or tags))


def _refine(job: Job, story: Story) -> tuple[dict[str, Any] | None, str]:
    """What the model says; None where there is none to ask, and why where that is for today only."""
    if not client.configured():
        return None, ""
    facts = {"Title": story.title, "Sector": story.sector, "Impact": ", ".join(story.impact_tags)}
    head = "\n".join(f"{name}: {said}" for name, said in facts.items() if said)
    try:
        answer = client.ask(job, instructions=prompt("enhance"), document_text=f"{head}\n\n{story.content}".strip(), schema=Refined)
    except client.UseLocal as over:
        return None, str(over)
    return {**answer, "engine": client.credit(story.content)["engine"]}, ""


def _basis(story: Story, refined: dict[str, Any] | None) -> str:
    if refined:
        return "Refined by a language model; the initial scores are based on word counts."
    part = "the story" if len(story.text) <= story_scores.MAX_READ else f"its first {story_scores.MAX_READ:,} characters"
    return f"Based on word counts in {part}: promises against figures and sources, concerns against safeguards."

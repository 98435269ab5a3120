"""The job type `enhance`: scores a story for hype and ethics; first by counting words, then by the language model."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from monolith.job_types.registry import Job, Permanent, SubmittedDocument, exponential, job_type

from .tools.analysis import story_scores
from .tools.analysis.story_scores import Story
from .tools.llm import client

MAX_CONTENT = 100_000
PLAIN_TEXT_TYPES = ("text/plain", "text/markdown", "text/x-rst")  # need no extraction
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
    """The answer of the language model."""

    hype_score = fields.Float(required=True, validate=validate.Range(0, 10))
    ethics_score = fields.Float(required=True, validate=validate.Range(0, 10))
    reality_check = fields.String(required=True, validate=validate.Length(1, 2000))
    eli5_summary = fields.String(required=True, validate=validate.Length(1, 1000))


def first_scores(params: dict[str, Any], document: SubmittedDocument | None) -> dict[str, Any] | None:
    """Returns the scores by word counts; None for a file whose text a worker has to extract first."""
    if document is None:
        return story_scores.scores(_story(params, "", params["content"], []))
    if document.media_type.partition(";")[0] not in PLAIN_TEXT_TYPES or not document.head:
        return None
    return story_scores.scores(_story(params, document.title, document.head.decode(errors="ignore"), document.tags))


def story_identity(params: dict[str, Any]) -> list[Any]:
    """Returns what identifies the story: a different text, sector or tag makes another one."""
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
    identity=story_identity,
)
def enhance(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Rate a news story for hype and ethics.

    Returns a hype score and an ethics score from 0 to 10, a reality check and a summary in plain language. The initial scores are
    based on word counts and are part of the response to the submission (`preview`); a language model, if configured, refines
    them. The result keeps both, as `original` and `refined`. Submitting the same story again returns the same job.
    """
    job.progress(10, "reading")
    story = _read(job, params)
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


def _read(job: Job, params: dict[str, Any]) -> Story:
    document = job.document
    text = document.text if document else params["content"]
    if not text.strip():
        raise Permanent("There is no story. Give a document, or the text as content.")
    return _story(params, document.title if document else "", text, document.tags if document else [])


def _story(params: dict[str, Any], title: str, content: str, tags: list[str]) -> Story:
    return Story(params["title"] or title, content, params["sector"], tuple(params["impact_tags"] or tags))


def _refine(job: Job, story: Story) -> tuple[dict[str, Any] | None, str]:
    """The model's scores. None without a model; if the budget is used up, also why."""
    facts = {"Title": story.title, "Sector": story.sector, "Impact": ", ".join(story.impact_tags)}
    head = "\n".join(f"{name}: {value}" for name, value in facts.items() if value)
    text = f"{head}\n\n{story.content}".strip()
    answer, why = client.ask_if_possible(job, prompt_name="enhance", document_text=text, schema=Refined)
    return {**answer, "engine": client.credit(story.content)["engine"]} if answer else None, why


def _basis(story: Story, refined: dict[str, Any] | None) -> str:
    if refined:
        return "Refined by a language model; the initial scores are based on word counts."
    part = "the story" if len(story.text) <= story_scores.MAX_READ else f"its first {story_scores.MAX_READ:,} characters"
    return f"Based on word counts in {part}: promises against figures and sources, concerns against safeguards."

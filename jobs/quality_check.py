"""Check an application: by the rules of its kind, and by a language model where there is one. Decide, and route the inspection."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from marshmallow import Schema, fields, validate

from monolith.job_types.registry import Automatic, FailedJob, Job, exponential, job_type

from .tools.analysis import text_stats
from .tools.llm import client
from .tools.mail import templates
from .tools.quality import checks, rules
from .tools.quality.rules import Finding

ONLINE, ONSITE = "ONLINE", "ONSITE"
MAX_TOLD = 20  # findings that an e-mail lists
_ADDRESS = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)


class Params(Schema):
    pass


class ModelFinding(Schema):
    severity = fields.String(required=True, validate=validate.OneOf(("major", "minor")))
    where = fields.String(required=True, validate=validate.Length(max=200))
    message = fields.String(required=True, validate=validate.Length(1, 400))
    mend = fields.String(required=True, validate=validate.Length(max=400))


class Judgement(Schema):
    """What the LLM answers. It can find nothing blocking: a model alone rejects nobody."""

    summary = fields.String(required=True, validate=validate.Length(1, 2000))
    score = fields.Integer(required=True, validate=validate.Range(0, 100))
    findings = fields.List(fields.Nested(ModelFinding), required=True, validate=validate.Length(max=20))


def take_the_safe_route(job: FailedJob) -> None:
    """No check, no doubt in the applicant's favour: somebody goes there and looks."""
    job.decide(route=ONSITE, decision="review")
    _tell(job, job.document_title or "", {"decision": "review", "route": ONSITE, "score": None, "findings": [], "defaulted": True})


@job_type(
    queue="default",
    params=Params,
    takes="document",
    max_attempts=3,
    backoff=exponential(2),
    timeout=120,
    io_bound=client.configured,
    automatic=Automatic(kinds=("application",), priority="high", delay=5),
    on_failure=take_the_safe_route,
)
def quality_check(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Check the quality of an application.

    Checks a document against the rules for its kind (`jobs/tools/quality_rules.toml`): required fields and sections are filled in,
    dates, amounts and identifiers agree, and the text is readable. A language model, if configured, also assesses it. Returns
    findings with fixes, a score from 0 to 100, a decision (`approve`, `review` or `reject`) and the type of inspection: `ONLINE`
    if approved, else `ONSITE`. The model can make the decision stricter, never more lenient. If every attempt fails, the document
    is routed `ONSITE` and flagged as defaulted. The owner gets an e-mail in either case.
    """
    document = job.document
    if document is None:
        raise RuntimeError("quality_check runs on a document")
    job.progress(5, "reading")
    text = document.text
    job.progress(30, "checking the rules")
    checked = checks.check(text, document.kind, datetime.now(UTC).date())
    by_rules = rules.score_of(checked.findings)
    job.progress(50, "assessing")
    judgement, why = _judge(job, text)
    verdict = _verdict(checked.findings, by_rules, judgement)
    job.progress(90, "writing")
    job.decide(route=verdict["route"], decision=verdict["decision"], score=verdict["score"])
    told = _tell(job, document.title, {**verdict, "defaulted": False})
    return {
        **verdict,
        "defaulted": False,
        "document_kind": document.kind,
        "known": checked.known,
        "words": len(checked.reading.words),
        "readability": text_stats.reading_ease(checked.reading),
        "notified": told,
        **_engine(by_rules, judgement, text, why),
    }


def _judge(job: Job, text: str) -> tuple[dict[str, Any] | None, str]:
    """What the model says; None where there is none to ask, and why where that is for today only."""
    if not client.configured():
        return None, ""
    try:
        return client.ask(job, instructions=client.prompt("quality_check"), document_text=text, schema=Judgement), ""
    except client.UseLocal as over:
        return None, str(over)


def _verdict(by_rules: list[Finding], rules_score: int, judgement: dict[str, Any] | None) -> dict[str, Any]:
    """Rules and model together. Both the score and the decision are at most what the rules alone allow.

    So nothing that a document may talk the model into does it any good.
    """
    of_model = [Finding(**{name: _plain(said) for name, said in one.items()}) for one in judgement["findings"]] if judgement else []
    score = min(rules_score, round((rules_score + judgement["score"]) / 2)) if judgement else rules_score
    everything = rules.in_order([*by_rules, *of_model])
    outcome = rules.decision_of(score, everything)
    if outcome == "reject" and rules.decision_of(rules_score, by_rules) != "reject":
        outcome = "review"  # a model alone rejects nobody
    listed = [{**asdict(one), "by": "rules" if one in by_rules else "model"} for one in everything]
    return {"score": score, "decision": outcome, "route": ONLINE if outcome == "approve" else ONSITE, "findings": listed}


def _plain(said: str) -> str:
    """Words of the model as one line without addresses: they end in an e-mail, and a document may have dictated them."""
    return _ADDRESS.sub("(address removed)", " ".join("".join(one if one.isprintable() else " " for one in said).split()))


def _engine(rules_score: int, judgement: dict[str, Any] | None, text: str, why: str) -> dict[str, Any]:
    """Who judged, and on what."""
    if judgement is None:
        basis = f"{why} Based on fixed rules: {rules_score} of 100."
        return {"engine": "local", "summary": None, "basis": basis.strip()}
    credit = client.credit(text)
    basis = f"Fixed rules: {rules_score} of 100; language model: {judgement['score']}. The model can only lower the score."
    return {"engine": credit["engine"], "summary": _plain(judgement["summary"]), "basis": f"{credit['basis']} {basis}"}


def _tell(job: Job | FailedJob, title: str, verdict: dict[str, Any]) -> bool:
    """Have an e-mail follow to the document's owner. False where their address cannot be written to, such as that of a first admin."""
    try:
        templates.address(job.owner_email)
    except ValueError:
        return False
    named = {name: verdict[name] for name in ("decision", "route", "score", "defaulted")}
    told = [{name: one[name] for name in ("severity", "where", "message", "mend")} for one in verdict["findings"][:MAX_TOLD]]
    job.follow_up("email", {"to": [job.owner_email], "template": "quality_check", "values": {**named, "title": title, "findings": told}})
    return True

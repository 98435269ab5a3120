"""The job type `quality_check`: checks an application by rules and a language model, decides, and routes the inspection."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from marshmallow import Schema, fields, validate

from monolith.content.markdown_html import one_line
from monolith.job_types.registry import Automatic, FailedJob, Job, exponential, job_type

from .tools.analysis import text_stats
from .tools.llm import client
from .tools.mail import templates
from .tools.quality import checks, rules
from .tools.quality.rules import QualityFinding

ONLINE, ONSITE = "ONLINE", "ONSITE"
MAX_MAILED = 20  # findings in an e-mail
_ADDRESS = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)


class Params(Schema):
    pass


class ModelFinding(Schema):
    severity = fields.String(required=True, validate=validate.OneOf(("major", "minor")))
    where = fields.String(required=True, validate=validate.Length(max=200))
    message = fields.String(required=True, validate=validate.Length(1, 400))
    fix = fields.String(required=True, validate=validate.Length(max=400))


class Assessment(Schema):
    """The answer of the language model. Its findings are never blocking: the model alone rejects nobody."""

    summary = fields.String(required=True, validate=validate.Length(1, 2000))
    score = fields.Integer(required=True, validate=validate.Range(0, 100))
    findings = fields.List(fields.Nested(ModelFinding), required=True, validate=validate.Length(max=20))


def apply_default_route(job: FailedJob) -> None:
    """Routes the document of a failed check to an on-site inspection."""
    job.decide(route=ONSITE, decision="review")
    _notify_owner(job, job.document_title or "", {"decision": "review", "route": ONSITE, "score": None, "findings": [], "defaulted": True})


@job_type(
    queue="default",
    params=Params,
    takes="document",
    max_attempts=3,
    backoff=exponential(2),
    timeout=120,
    io_bound=client.configured,
    automatic=Automatic(kinds=("application",), priority="high", delay=5),
    on_failure=apply_default_route,
)
def quality_check(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Check the quality of an application.

    Checks a document against the rules for its kind (`jobs/tools/quality/quality_rules.toml`): required fields and sections are filled in,
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
    assessment, why = client.ask_if_possible(job, prompt_name="quality_check", document_text=text, schema=Assessment)
    verdict = _verdict(checked.findings, by_rules, assessment)
    job.progress(90, "writing")
    job.decide(route=verdict["route"], decision=verdict["decision"], score=verdict["score"])
    is_notified = _notify_owner(job, document.title, {**verdict, "defaulted": False})
    return {
        **verdict,
        "defaulted": False,
        "document_kind": document.kind,
        "known": checked.known,
        "words": len(checked.analysis.words),
        "readability": text_stats.reading_ease(checked.analysis),
        "notified": is_notified,
        **_engine(by_rules, assessment, text, why),
    }


def _verdict(by_rules: list[QualityFinding], rules_score: int, assessment: dict[str, Any] | None) -> dict[str, Any]:
    """Combines rules and model. The model can only lower the score and the decision.

    So a document gains nothing by manipulating the model.
    """
    of_model = (
        [QualityFinding(**{name: _plain(value) for name, value in one.items()}) for one in assessment["findings"]] if assessment else []
    )
    score = min(rules_score, round((rules_score + assessment["score"]) / 2)) if assessment else rules_score
    everything = rules.in_order([*by_rules, *of_model])
    outcome = rules.decision_of(score, everything)
    if outcome == "reject" and rules.decision_of(rules_score, by_rules) != "reject":
        outcome = "review"  # the model alone rejects nobody
    # `mend` is the name of `fix` until 0.9; until 0.10
    listed = [{**asdict(one), "mend": one.fix, "by": "rules" if one in by_rules else "model"} for one in everything]
    return {"score": score, "decision": outcome, "route": ONLINE if outcome == "approve" else ONSITE, "findings": listed}


def _plain(text: str) -> str:
    """The model's text on one line without links: it goes into an e-mail, and a document may have dictated it."""
    return _ADDRESS.sub("(address removed)", one_line(text))


def _engine(rules_score: int, assessment: dict[str, Any] | None, text: str, why: str) -> dict[str, Any]:
    """The `engine`, `summary` and `basis` of the result."""
    if assessment is None:
        basis = f"{why} Based on fixed rules: {rules_score} of 100."
        return {"engine": "local", "summary": None, "basis": basis.strip()}
    credit = client.credit(text)
    basis = f"Fixed rules: {rules_score} of 100; language model: {assessment['score']}. The model can only lower the score."
    return {"engine": credit["engine"], "summary": _plain(assessment["summary"]), "basis": f"{credit['basis']} {basis}"}


def _notify_owner(job: Job | FailedJob, title: str, verdict: dict[str, Any]) -> bool:
    """Submits an e-mail to the owner. Returns False if their address is not valid, such as that of the first admin."""
    try:
        templates.address(job.owner_email)
    except ValueError:
        return False
    values = {name: verdict[name] for name in ("decision", "route", "score", "defaulted")}
    findings = [{name: one[name] for name in ("severity", "where", "message", "fix", "mend")} for one in verdict["findings"][:MAX_MAILED]]
    job.follow_up(
        "email", {"to": [job.owner_email], "template": "quality_check", "values": {**values, "title": title, "findings": findings}}
    )
    return True

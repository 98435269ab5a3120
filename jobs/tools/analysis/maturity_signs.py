"""Signs of maturity: what a good document of its kind has, and whether a text has it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .text_stats import TextAnalysis


@dataclass(frozen=True)
class Sign:
    """One sign: its name, the pattern that shows it, and the message if it is missing."""

    name: str
    pattern: re.Pattern[str]
    missing: str


def kind_of(analysis: TextAnalysis) -> str:
    """Returns the kind of document, by its words and sections: "software", "report" or "text"."""
    of_software = len(set(_SOFTWARE.findall(analysis.text[:200_000].lower()))) + min(3, analysis.code_blocks)
    of_report = len({section.lower().strip("0123456789. ") for section in analysis.sections} & _REPORT_SECTIONS)
    if of_software >= 4 and of_software > of_report:
        return "software"
    return "report" if of_report >= 2 else "text"


def signs_of(analysis: TextAnalysis, kind: str) -> list[dict[str, str | bool]]:
    """Returns the signs for this kind of document as `{name, found, missing}`; `missing` is the message if not found."""
    text = analysis.text.lower()
    return [{"name": sign.name, "found": bool(sign.pattern.search(text)), "missing": sign.missing} for sign in _SIGNS[kind]]


_SOFTWARE = re.compile(
    r"\b(?:install\w*|pip|npm|cargo|github|api|cli|command[ -]line|library|repository|docker|release|software|python|javascript|rust|java"
    r"|server|plugin|framework|open[ -]source|code|app|dashboard|integrations?|browser)\b"
)
_REPORT_SECTIONS = frozenset(
    ["abstract", "introduction", "background", "method", "methods", "methodology", "results", "findings", "discussion", "conclusion"]
    + ["conclusions", "references", "recommendations", "executive summary", "limitations", "appendix", "related work", "evaluation"]
)


def _sign(name: str, pattern: str, missing: str) -> Sign:
    return Sign(name, re.compile(pattern, re.MULTILINE), missing)


_SIGNS = {
    "software": [
        _sign("version", r"\bv?\d+\.\d+(?:\.\d+)+\b|\bversion \d", "It gives no version."),
        _sign(
            "installation",
            r"\binstall\w*\b|\bgetting started\b|\bquick ?start\b|\bsign up\b|\bdownload\b",
            "It does not say how to install or start it.",
        ),
        _sign("examples", r"```|~~~|\bexamples?\b|\btutorials?\b|^[ \t]*(?:\$|>>>) ", "It has no examples."),
        _sign("licence", r"\blicen[cs]ed?\b|\bterms of (?:use|service)\b|\bcopyright\b", "It names no licence."),
        _sign("tests", r"\btest(?:s|ed|ing| suite)\b|\bcontinuous integration\b|\bcoverage\b", "It does not mention tests."),
        _sign(
            "reference",
            r"\bapi\b|\breference\b|\boptions\b|\bconfigur\w+\b|\bdocumentation\b",
            "It has no reference for its options or API.",
        ),
        _sign(
            "history",
            r"\bchange ?log\b|\breleases?\b|\brelease notes\b|\bwhat['’]s new\b|\broadmap\b",
            "It has no change log or list of releases.",
        ),
        _sign("support", r"\bcontact\b|\bsupport\b|\bissues?\b|\bcommunity\b|[\w.]@\w", "It does not say where to get help."),
        _sign(
            "limits",
            r"\blimitations?\b|\bknown issues\b|\bcaveats?\b|\bnot (?:yet )?support|\bdoes not\b",
            "It does not state its limitations.",
        ),
        _sign("security", r"\bsecur\w+\b|\bprivacy\b|\bauthenticat\w+\b|\bencrypt\w+\b", "It does not mention security or privacy."),
    ],
    "report": [
        _sign("summary", r"\babstract\b|\bsummary\b|\boverview\b", "It has no summary or abstract."),
        _sign("introduction", r"\bintroduction\b|\bbackground\b|\bpurpose\b|\bobjectives?\b", "It does not say why it was written."),
        _sign(
            "method",
            r"\bmethod\w*\b|\bprocedure\b|\bapproach\b|\bsample\b|\bwe (?:used|measured|asked)\b",
            "It does not describe its methods.",
        ),
        _sign("results", r"\bresults?\b|\bfindings?\b|\bwe found\b", "It states no results."),
        _sign(
            "figures",
            r"\d ?%|\btable \d|\bfigure \d|\bfig\. ?\d|\b\d{1,3}(?:,\d{3})+\b",
            "It has no figures that can be checked.",
        ),
        _sign(
            "limits",
            r"\blimitations?\b|\bcaveats?\b|\bthreats to validity\b|\bfurther research\b|\bfuture work\b",
            "It does not discuss its limitations.",
        ),
        _sign("conclusion", r"\bconclu\w+\b|\brecommend\w*\b|\bnext steps\b", "It has no conclusion."),
        _sign("sources", r"\breferences\b|\bbibliography\b|\bet al\b|\[\d+\]|https?://|\bdoi\b", "It cites no sources."),
        _sign("date", r"\b(?:19|20)\d\d\b", "It has no date."),
        _sign(
            "author", r"[\w.]@\w|\bauthors?\b|\bprepared by\b|\bwritten by\b|\buniversity\b|\bcontact\b", "It does not say who wrote it."
        ),
    ],
    "text": [
        _sign("headings", r"^#{1,6} \S|^\d[\d.]* [a-z]|^.{3,60}\n[=-]{3,}$", "It has no headings."),
        _sign("figures", r"\b\d+(?:[.,]\d+)?\b", "It has no figures."),
        _sign("examples", r"\bfor example\b|\bfor instance\b|\be\.g\.|\bsuch as\b|\bexamples?\b", "It gives no examples."),
        _sign("reasons", r"\bbecause\b|\btherefore\b|\bso that\b|\bdue to\b|\bas a result\b|\bsince\b", "It gives no reasons."),
        _sign(
            "limits", r"\bhowever\b|\bbut\b|\balthough\b|\brisks?\b|\blimit\w*\b|\bunless\b|\bexcept\b", "It mentions no limits or risks."
        ),
        _sign("sources", r"https?://|\baccording to\b|\bsource\b|\[\d+\]|\breferences\b", "It cites no sources."),
        _sign("date", r"\b(?:19|20)\d\d\b", "It has no date."),
        _sign("author", r"[\w.]@\w|\bauthor\b|\bwritten by\b|\bcontact\b|\bwe are\b", "It names no author or contact."),
        _sign(
            "outcome",
            r"\bconclu\w+\b|\bin summary\b|\bnext steps?\b|\brecommend\w*\b|\bdecid\w+\b|\bplan(?:s|ned)?\b",
            "It has no conclusion or next steps.",
        ),
    ],
}

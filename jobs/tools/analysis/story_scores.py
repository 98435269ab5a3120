"""Scores a story by counting words: takes milliseconds and is deterministic."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from . import text_stats
from .text_stats import Sentence, TextAnalysis

MAX_READ = 6_000  # characters: the submitter waits for these scores; the language model reads all
SHORT_SENTENCE = 22  # words that a child can follow
LONG_WORD = 9  # letters


@dataclass(frozen=True)
class Story:
    """A story with its sector, such as "health", and the tags of what it may affect."""

    title: str
    content: str
    sector: str = ""
    impact_tags: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return "\n\n".join(part for part in (self.title, self.content) if part)


def scores(story: Story) -> dict[str, Any]:
    """Returns `hype_score` and `ethics_score` (0 to 10), `reality_check`, `eli5_summary` and `engine`."""
    text = story.text[:MAX_READ]
    promises, evidence = ([match[0] for match in cues.finditer(text)] for cues in (_PROMISES, _EVIDENCE))
    concerns, safeguards = (_matching_topics(topics, story, text) for topics in (_CONCERNS, _SAFEGUARDS))
    return {
        "hype_score": _hype(promises, evidence),
        "ethics_score": _ethics(story.sector, concerns, safeguards),
        "reality_check": " ".join([_claims(promises, evidence), _harm(concerns, safeguards), _question(promises, evidence)]),
        "eli5_summary": _simple_summary(story, text),
        "engine": "local",
    }


def _hype(promises: list[str], evidence: list[str]) -> float:
    """The share of promises among promises and evidence, times 10. The 1 keeps a single match from deciding."""
    return round(10 * len(promises) / (len(promises) + len(evidence) + 1), 1)


def _ethics(sector: str, concerns: list[str], safeguards: list[str]) -> float:
    """7 without concerns, 1.5 less for each concern, 1 more for each safeguard, and 1.5 less in a high-stakes sector."""
    stake = 1.5 if _HIGH_STAKES_SECTORS.search(sector) else 0.0
    return round(min(10.0, max(0.0, 7 - stake - 1.5 * len(concerns) + 1.0 * len(safeguards))), 1)


def _matching_topics(topics: dict[str, re.Pattern[str]], story: Story, text: str) -> list[str]:
    """The names of the topics that the story's tags or text mention."""
    tags_and_text = "\n".join([*story.impact_tags, text])
    return [name for name, pattern in topics.items() if pattern.search(tags_and_text)]


# ---- the reality check


def _claims(promises: list[str], evidence: list[str]) -> str:
    if not promises and not evidence:
        return "The story makes no bold claims, and gives no figures or sources."
    big = f"{_count(len(promises), 'bold claim')} ({_quoted(promises)})" if promises else "no bold claims"
    shown = (
        f"{_count(len(evidence), 'figure or source', 'figures or sources')} ({_quoted(evidence)})" if evidence else "no figures or sources"
    )
    return f"The story has {big} and {shown}."


def _harm(concerns: list[str], safeguards: list[str]) -> str:
    if not concerns:
        return f"It mentions {_listed(safeguards)} and no harm." if safeguards else "It does not say who it could harm."
    answered = f"and answers with {_listed(safeguards)}" if safeguards else "but mentions no safeguards"
    return f"It raises {_listed(concerns)}, {answered}."


def _question(promises: list[str], evidence: list[str]) -> str:
    if len(promises) > len(evidence):
        return "Ask who has measured it, and where it is in use today."
    return "Ask who paid for the figures, and who has checked them." if evidence else "Ask what it does today that was not possible before."


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def _quoted(words: list[str]) -> str:
    return ", ".join(f"“{' '.join(word.split())[:40]}”" for word in list(dict.fromkeys(words))[:3])


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# ---- the story in easy words


def _simple_summary(story: Story, text: str) -> str:
    """The two most important and easiest sentences, in the order of the text, with hard words explained."""
    found = text_stats.analyse(text)
    prose = [one for one in found.sentences if one.is_prose] or found.sentences[:1]
    best = sorted(prose, key=lambda one: (-_simplicity_score(one, found), one.place))[:2]
    summary = " ".join(one.text for one in sorted(best, key=lambda one: one.place)) or story.title
    for hard, easy in _SIMPLER_WORDS.items():
        summary = re.sub(rf"\b{hard}\b", easy, summary, count=1, flags=re.IGNORECASE)
    return summary


def _simplicity_score(one: Sentence, found: TextAnalysis) -> float:
    weight = sum(found.weights.get(word, 0.0) for word in set(one.words))
    hard = sum(len(word) >= LONG_WORD for word in one.words) + max(0, len(one.words) - SHORT_SENTENCE)
    return weight / (len(one.words) + 10) / (1 + 0.5 * hard)


# ---- the words


def _any(*phrases: str) -> re.Pattern[str]:
    """Matches any of the phrases as whole words; `*` matches the rest of a word."""
    return re.compile(rf"\b(?:{'|'.join(phrase.replace('*', '[a-z]*') for phrase in phrases)})\b", re.IGNORECASE)


_PROMISES = _any(
    *("revolution*", "game[- ]chang*", "breakthrough*", "disrupt*", "unprecedented", "groundbreaking", "ground-breaking", "world[- ]first"),
    *(
        "first[- ]ever",
        "cutting[- ]edge",
        "next[- ]generation",
        "next[- ]gen",
        "state[- ]of[- ]the[- ]art",
        "limitless",
        "magic*",
        "miracle*",
    ),
    *("transform*", "reinvent*", "reimagin*", "will (?:change|replace|end|solve|save|cure|make) \\w+", "never before", "the future of"),
    *(
        "forever",
        "everyone",
        "everything",
        "instantly",
        "effortless*",
        "perfect*",
        "unlimited",
        "exponential*",
        "supercharge*",
        "superhuman",
    ),
    *("best[- ]in[- ]class", "world[- ]class", "world'?s (?:best|fastest|smartest|most \\w+)", "10x", "100x", "sentient", "conscious"),
    *("mind[- ]blowing", "jaw[- ]dropping", "incredibl*", "amazing*", "stunning*", "insane*", "unbelievabl*", "could soon"),
)
_EVIDENCE = re.compile(
    r"\b(?:according to|peer[- ]reviewed|published in|(?:stud(?:y|ies)|(?:trial|survey|benchmark|audit)s?) (?:of|by|with|found|showed|in)"
    r"|researchers at|measured|compared (?:with|to)|tested (?:on|with|in|by)|data (?:from|show)|sample of|independent\w*|limitations?"
    r"|however|so far only|early stage|prototype|not yet|error rate|margin of error)\b|\b\d{1,6}(?:[.,]\d{1,3})? ?(?:%|per ?cent|percent)"
    r"|\b\d{1,6}(?:[.,]\d{1,3}){0,3} (?:patients|people|users|participants|samples|hours|days|months|years|companies)\b|\[\d+\]|\bdoi\b",
    re.IGNORECASE,
)
_CONCERNS = {
    "surveillance": _any(
        "surveillance", "facial recognition", "face recognition", "tracking", "spy*", "monitors? (?:workers|employees|people)"
    ),
    "privacy": _any("privacy", "personal data", "data leak", "data breach", "scrap(?:es|ed|ing)", "without (?:their )?consent"),
    "bias": _any("bias*", "discriminat*", "unfair*", "racis*", "sexis*"),
    "jobs": _any("job loss*", "layoffs?", "laid off", "replac(?:e|es|ing) (?:workers|jobs|people|humans)", "unemployment"),
    "weapons": _any("weapon*", "lethal", "military", "drone strike*", "warfare"),
    "safety": _any("injur*", "deaths?", "unsafe", "accident*", "harm(?:s|ful|ed)?", "danger*", "toxic"),
    "misinformation": _any("deepfake*", "misinformation", "disinformation", "fake news", "manipulat*"),
    "children": _any("children", "minors", "teenagers?", "addict*"),
    "the environment": _any("emissions?", "carbon footprint", "energy[- ]hungry", "pollut*", "e-waste"),
}
_SAFEGUARDS = {
    "consent": _any("informed consent", "opt[- ]in", "opt[- ]out", "with (?:their )?consent"),
    "openness": _any("open[- ]source", "transparen*", "explainable", "published (?:its|the|their) (?:code|data|model)"),
    "oversight": _any("audit*", "regulat*", "oversight", "ethics (?:board|committee|review)", "human in the loop", "accountab*"),
    "protection of data": _any("encrypt*", "anonymi[sz]ed", "on[- ]device", "privacy[- ]preserving", "deletes? (?:the )?data"),
    "access for all": _any("accessib*", "affordable", "free of charge", "inclusive", "low[- ]income"),
    "care for the environment": _any("renewable*", "sustainab*", "recycl*", "energy[- ]efficient", "cuts? emissions"),
    "tests of safety": _any("safety (?:test\\w*|trial\\w*|review)", "clinical trial*", "red[- ]team*"),
}
_HIGH_STAKES_SECTORS = _any(
    *("military", "defen[cs]e", "weapon*", "surveillance", "policing", "police", "biometric*", "border*", "gambling", "health*", "medical"),
    *("medicine", "child*", "education", "justice", "credit", "insurance", "hiring", "elections?", "politics"),
)
_SIMPLER_WORDS = {
    "artificial intelligence": "artificial intelligence (a computer that learns from examples)",
    "AI": "AI (a computer that learns from examples)",
    "algorithms?": "a list of steps for a computer",
    "large language models?": "a computer that has read a great many texts",
    "quantum computers?": "a computer that uses the rules of the tiniest things",
    "blockchain": "a shared notebook that nobody can secretly change",
    "utili[sz]es?": "uses",
    "implements?": "does",
    "approximately": "about",
    "demonstrates?": "shows",
    "significantly": "much",
}

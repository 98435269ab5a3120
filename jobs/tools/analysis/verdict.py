"""Finds the sentences of a text about its subject: summary, strengths, limitations and use cases.

Every entry is quoted from the text, found by its section heading or by (English) cue words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .text_stats import Sentence, TextAnalysis, alike, key_sentences

MAX_QUOTES = 6


def strengths(analysis: TextAnalysis) -> list[str]:
    """Returns up to MAX_QUOTES sentences in favour of the subject."""
    return _quotes(analysis, _FOR, but_not=_AGAINST)


def limitations(analysis: TextAnalysis) -> list[str]:
    """Returns up to MAX_QUOTES sentences on what the subject cannot do, requires or risks."""
    return _quotes(analysis, _AGAINST)


def use_cases(analysis: TextAnalysis) -> list[str]:
    """Returns up to MAX_QUOTES sentences on what the subject is for."""
    return _quotes(analysis, _USE, but_not=_AGAINST)


def summary(analysis: TextAnalysis, limit: int = 900) -> str:
    """Returns a definition of the subject, if there is one near the start, and key sentences: at most `limit` characters."""
    definition = next((one for one in analysis.sentences[:15] if one.is_prose and not one.listed and _DEFINES.search(one.text)), None)
    chosen = [definition] if definition else []
    chosen += [one for one in key_sentences(analysis) if not definition or not alike(one, definition)]
    kept: list[Sentence] = []
    for one in chosen or analysis.sentences[:3]:
        if not kept or sum(len(other.text) + 1 for other in kept) + len(one.text) <= limit:
            kept.append(one)
    return " ".join(one.text for one in sorted(kept, key=lambda one: one.place))


def _quotes(analysis: TextAnalysis, cues: _Cues, but_not: _Cues | None = None) -> list[str]:
    """The best sentences for these cues without near duplicates, those under a matching heading first."""
    found = sorted(_scored(analysis, cues, but_not), key=lambda entry: (-entry[0], entry[1].place))
    chosen: list[Sentence] = []
    for _, one in found[: MAX_QUOTES * 10]:
        if len(chosen) < MAX_QUOTES and not any(alike(one, other) for other in chosen):
            chosen.append(one)
    return [one.text for one in sorted(chosen, key=lambda one: one.place)]


def _scored(analysis: TextAnalysis, cues: _Cues, but_not: _Cues | None) -> Iterator[tuple[int, Sentence]]:
    for one in analysis.sentences:
        if not one.is_prose:
            continue
        belongs = bool(cues.heading.search(one.section.lower()))
        text = one.text.lower()
        score = 3 * belongs + len(cues.words.findall(text))
        if score and (belongs or but_not is None or not but_not.words.search(text)):
            yield score, one


@dataclass(frozen=True)
class _Cues:
    """Words that indicate a kind of sentence, and the headings of sections with such sentences."""

    heading: re.Pattern[str]
    words: re.Pattern[str]


def _any(*phrases: str) -> re.Pattern[str]:
    """Matches any of the phrases as whole words. Phrases are separated by ` | `; `*` matches the rest of a word."""
    choices = [re.sub(r"\*", "[a-z]*", phrase) for line in phrases for phrase in line.split(" | ")]
    return re.compile(rf"\b(?:{'|'.join(choices)})\b")


_FOR = _Cues(
    heading=_any(r"features? | strengths? | advantages? | benefits? | pros | highlights? | why | achievements?"),
    words=_any(
        r"advantage* | benefit* | strength* | fast(?:er|est)? | quick* | eas(?:y|ier|ily) | simple | simpl(?:er|y|ifies) | powerful | best",
        r"reliab* | robust* | efficien* | secure(?:ly)? | scalab* | stable | mature | well[ -]tested | proven | flexib* | compatible",
        r"improv(?:es?|ed|ements?|ing) | outperform* | sav(?:es?|ed|ing) | reduc(?:es?|ed|ing) | achiev* | increased | grew | better than",
        r"supports? | supported | success* | effective* | accura(?:te|cy) | automatic* | consistent* | guarantee* | excellent",
        r"strong(?:er|ly)? | free of charge | open[ -]source | low[ -]cost | no dependencies | built[ -]in | high quality",
    ),
)
_AGAINST = _Cues(
    heading=_any(
        r"limitations? | known issues | drawbacks? | caveats? | cons | disadvantages? | risks? | weakness* | challenges? | not supported"
    ),
    words=_any(
        r"limitation* | limited | drawback* | disadvantage* | caveat* | weakness* | shortcoming* | known issues? | out of scope | however",
        r"can ?not | can['’]t | does not | doesn['’]t | do not support | not yet | not support* | unsupported | no support | not included",
        r"not recommended | not suitable | not intended | experimental | unstable | deprecated | beta | alpha | work in progress",
        r"only works? | requires? | at most | slow(?:er|ly)? | fail(?:s|ed|ures?)? | lacks? | lacking | missing | unclear | unknown",
        r"risk* | expensive | difficult* | problem* | unfortunately | further research | declined",
    ),
)
_USE = _Cues(
    heading=_any(r"use cases? | uses | applications? | when to use | who | audience | purpose"),
    words=_any(
        r"use[ -]cases? | can be used | (?:is|are) used (?:to|for|by|in) | used (?:to|for) | useful (?:for|when|to|in) | for example",
        r"designed (?:for|to) | intended (?:for|to) | aimed at | ideal for | suitable for | suited (?:for|to) | applications? (?:in|of|to)",
        r"allows? you | lets | helps? | enables? | makes it (?:easy|possible) | whether you | (?:if|when) you (?:need|want)",
        r"you can | users can | teams? | developers",
    ),
)
_DEFINES = re.compile(
    r"^(?:this|the|our) (?:document|paper|report|study|article|guide|tool|library|package|project|book|page)\b"
    r"|\b(?:is|are) (?:a|an|the|one of)\b|\bprovides\b|\bwe (?:present|introduce|propose)\b",
    re.IGNORECASE,
)

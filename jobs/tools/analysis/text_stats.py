"""Splits a text into sections and sentences, and computes key terms, key sentences, language and readability.

No model and no network: the same text always gives the same result, in time linear in its length. The statistics work in any
language that separates words; the readability formula is for English only.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

MAX_SENTENCE = 400  # characters: longer ones are tables and lists that lost their layout
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
OUTLINE = re.compile(r"\d{1,2}\.\d{1,2}\.?(?:\d{1,2}\.?)*[ \t]")
MARKED = re.compile(r"#{1,6}[ \t]+(\S.*)")
NUMBERED = re.compile(r"(?:\d{1,2}\.)*\d{1,2}\.?[ \t]+(?=[^\W\d_])[^\Wa-zß-ÿ][^.!?:;]{2,70}")
CODE = re.compile(r"[{}<>|\\]|[=(]=|\w_\w|\w\(\)|\.{4}")
UNDERLINE = re.compile(r"(=+|-+)\s*")
LIST_ITEM = re.compile(r"\s*(?:[-*+•–▪◦]|\(?\d{1,2}[.)])\s+(?=\S)")
TABLE_ROW = re.compile(r"\|.*\||[-|:+ ]{5,}")
EASE = {90: "very easy", 80: "easy", 70: "fairly easy", 60: "plain", 50: "fairly difficult", 30: "difficult"}


@dataclass(frozen=True)
class Sentence:
    """One sentence: its position (0 is the first), its section, whether it is a list item, and its words in lower case."""

    text: str
    place: int
    section: str
    listed: bool
    words: tuple[str, ...] = field(repr=False)

    @property
    def is_prose(self) -> bool:
        """Whether it is a full sentence: not a title, a table row, a line of code or metadata."""
        begins = not self.text[0].islower() or self.listed
        ends = self.listed or self.text.endswith((".", "!", "?", "。", "！", "？", "…", '."', ".)", ".”"))
        letters = sum(map(len, self.words))
        return begins and ends and 4 <= len(self.words) <= 60 and letters * 10 > len(self.text) * 7 and not CODE.search(self.text)


@dataclass
class TextAnalysis:
    """A text split into sentences and section headings. `code_blocks` counts fenced code, which is not split into sentences."""

    text: str
    sentences: list[Sentence] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)
    code_blocks: int = 0

    @cached_property
    def words(self) -> list[str]:
        return [sys.intern(word.lower()) for word in WORD.findall(self.text)]

    @cached_property
    def language(self) -> str | None:
        """The language whose function words are the most frequent in the text, as ISO 639-1 code; None if none is frequent enough."""
        counts = Counter(self.words)
        shares = {name: sum(counts[word] for word in stop_words) / max(1, len(self.words)) for name, stop_words in STOP_WORDS.items()}
        best = max(shares, key=lambda name: shares[name])
        return best if shares[best] > 0.15 else None

    @cached_property
    def weights(self) -> dict[str, float]:
        """The weight of each content word: the logarithm of its frequency. Stop words have none."""
        stop_words = frozenset().union(*STOP_WORDS.values()) if self.language is None else STOP_WORDS[self.language]
        counts = Counter(word for sentence in self.sentences for word in sentence.words if len(word) > 2 and word not in stop_words)
        return {word: math.log2(1 + times) for word, times in counts.items()}


def analyse(text: str) -> TextAnalysis:
    """Splits a text. Markdown syntax is interpreted and removed; wrapped lines are joined."""
    analysis, section = TextAnalysis(text), ""
    for kind, block in _blocks(text):
        if kind == "code":
            analysis.code_blocks += 1
        elif kind == "heading":
            section = block
            analysis.sections.append(block)
        else:
            _add_sentences(analysis, block, section, listed=kind == "item")
    if not analysis.sentences:  # a single line looks like a heading
        _add_sentences(analysis, _plain(text), "", listed=False)
    return analysis


def _add_sentences(analysis: TextAnalysis, block: str, section: str, *, listed: bool) -> None:
    for one in _sentences(block):
        words = tuple(sys.intern(word.lower()) for word in WORD.findall(re.sub(r"https?://\S+", " ", one)))
        analysis.sentences.append(Sentence(one, len(analysis.sentences), section, listed, words))


def key_terms(analysis: TextAnalysis, limit: int = 12) -> list[dict[str, str | int]]:
    """Returns the most frequent terms as `{term, count}`. A pair of words replaces its parts if they mostly occur together."""
    weights, frequency = analysis.weights, Counter(word for one in analysis.sentences for word in one.words)
    pairs = Counter(pair for one in analysis.sentences for pair in pairwise(one.words) if pair[0] in weights and pair[1] in weights)
    often = {pair: times for pair, times in pairs.items() if times > 1 and pair[0] != pair[1]}
    kept = {pair: times for pair, times in often.items() if times * 2 >= min(frequency[word] for word in pair)}
    inside = {word for pair, times in kept.items() for word in pair if times * 2 >= frequency[word]}
    counts = {" ".join(pair): times for pair, times in kept.items()}
    counts |= {word: frequency[word] for word in weights if word not in inside and (len(word) > 3 or frequency[word] > 2)}
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1] * (1 + entry[0].count(" ")), entry[0]))
    return [{"term": term, "count": times} for term, times in ranked[:limit]]


def key_sentences(analysis: TextAnalysis, limit: int = 5) -> list[Sentence]:
    """Returns the highest-scoring sentences without near duplicates, in the order of the text."""
    scores = {one.place: _score(one, analysis) for one in analysis.sentences}
    ranked = sorted((one for one in analysis.sentences if scores[one.place] > 0), key=lambda one: (-scores[one.place], one.place))
    chosen: list[Sentence] = []
    for one in ranked[: limit * 20]:
        if len(chosen) < limit and not any(alike(one, other) for other in chosen):
            chosen.append(one)
    return sorted(chosen, key=lambda one: one.place)


def alike(one: Sentence, other: Sentence) -> bool:
    """Whether two sentences share more than half of the words of the shorter one."""
    first, second = set(one.words), set(other.words)
    return len(first & second) * 2 > min(len(first), len(second))


def reading_ease(analysis: TextAnalysis) -> dict[str, str | float | None]:
    """Returns the Flesch reading ease as `score`, and as words in `level`; for English only.

    206.835 - 1.015 x words per sentence - 84.6 x syllables per word (Rudolf Flesch, "A new readability yardstick",
    Journal of Applied Psychology 32 (1948), 221-233). Syllables are counted as groups of vowels.
    """
    counts = Counter(word for one in analysis.sentences for word in one.words)
    total = sum(counts.values())
    if analysis.language != "en" or total < 30:
        return {"score": None, "level": "not measured: the formula needs 30 words of English"}
    syllables = sum(_syllables(word) * times for word, times in counts.items())
    score = round(206.835 - 1.015 * total / len(analysis.sentences) - 84.6 * syllables / total, 1)
    return {"score": score, "level": next((words for least, words in EASE.items() if score >= least), "very difficult")}


def _syllables(word: str) -> int:
    groups = len(re.findall(r"[aeiouy]+", word))
    return max(1, groups - (word.endswith("e") and not word.endswith("le")))


def _score(one: Sentence, analysis: TextAnalysis) -> float:
    """The mean weight of the content words, higher at the start of the text and for words of the section heading."""
    if not one.is_prose or one.text.endswith("?"):
        return 0.0
    content_words = {word for word in one.words if word in analysis.weights}
    mean = sum(analysis.weights[word] for word in content_words) / (len(one.words) + 10)
    start = 1 + 0.4 * math.exp(-one.place / 6)
    heading = 1.15 if content_words & set(one.section.lower().split()) else 1.0
    return mean * start * heading * (0.8 if one.listed else 1.0)


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yields the blocks in order as (kind, text); kind is heading, paragraph, item or code."""
    fence, pending = "", _BlockBuffer()
    for line, after in pairwise([*text.split("\n"), ""]):
        mark = line.strip()[:3]
        if fence or mark in ("```", "~~~"):
            if not fence:
                yield from pending.flush()
                yield "code", ""
            fence = "" if fence == mark else fence or mark
        elif not line.strip() or TABLE_ROW.fullmatch(line.strip()):
            yield from pending.flush()
        elif heading := _heading(line, after, pending):
            yield from pending.flush()
            yield "heading", heading
        else:
            yield from pending.add(line)
    yield from pending.flush()


class _BlockBuffer:
    """Collects the lines of the current paragraph or list item."""

    def __init__(self) -> None:
        self._kind, self._lines = "paragraph", list[str]()

    @property
    def is_empty(self) -> bool:
        return not self._lines

    @property
    def is_complete(self) -> bool:
        """Whether a new block may start: the buffer is empty or ends with a sentence."""
        return self.is_empty or self._lines[-1].endswith((".", "!", "?", ":"))

    def add(self, line: str) -> Iterator[tuple[str, str]]:
        if bullet := LIST_ITEM.match(line):
            yield from self.flush()
            self._kind, line = "item", line[bullet.end() :]
        self._lines.append(line.strip())

    def flush(self) -> Iterator[tuple[str, str]]:
        if block := _plain(" ".join(self._lines)):
            yield self._kind, block
        self._kind, self._lines = "paragraph", []


def _heading(line: str, after: str, pending: _BlockBuffer) -> str:
    """The heading in this line, or "". Headings are marked, well known, numbered, underlined, upper case, or short and alone."""
    words = line.strip()
    if marked := MARKED.fullmatch(words):
        return _plain(marked[1]).rstrip("# ")
    if words.lower() in SECTIONS:
        return words
    if (
        len(words) > 80
        or words.endswith((".", ",", ";", ":", "!", "?"))
        or CODE.search(words)
        or not (pending.is_complete or OUTLINE.match(words))
    ):
        return ""
    if NUMBERED.fullmatch(words):
        return "" if LIST_ITEM.match(after) else words
    underlined = pending.is_empty and len(after.strip()) >= 3 and UNDERLINE.fullmatch(after) is not None
    capitals = words.isupper() and len(WORD.findall(words)) >= 2
    alone = pending.is_empty and not after.strip() and len(words.split()) <= 10 and words[0].isupper()
    return _plain(words) if underlined or capitals or alone else ""


def _plain(text: str) -> str:
    """Removes Markdown syntax: images are dropped, links keep their text."""
    text = re.sub(r"!\[[^][]{0,300}\]\([^()]{0,500}\)", "", text)
    text = re.sub(r"\[([^][]{0,300})\]\([^()]{0,500}\)", r"\1", text)
    text = re.sub(r"</?[a-zA-Z][^<>]{0,300}>|[*`]+|(?<!\w)_{1,2}|_{1,2}(?!\w)", "", text)
    return " ".join(text.split())


def _sentences(block: str) -> Iterator[str]:
    """Splits a block into sentences: one ends where the next word may start another."""
    tokens = re.sub(r"([。！？])", r"\1 ", block).split()
    current: list[str] = []
    for token, after in pairwise([*tokens, ""]):
        current.append(token)
        if not after or _ends(token, after):
            yield from _pieces(" ".join(current))
            current = []


def _ends(token: str, after: str) -> bool:
    bare = token.rstrip("\"'”’)]»")
    if not bare.endswith((".", "!", "?", "。", "！", "？", "…")):
        return False
    is_short = bare.endswith(".") and (bare[:-1].lower().lstrip("([") in ABBREVIATIONS or (len(bare) == 2 and bare[0].isupper()))
    return not is_short and not after[0].islower()


def _pieces(sentence: str) -> Iterator[str]:
    """Yields the sentence, in pieces of at most MAX_SENTENCE characters, cut between words if possible."""
    start = 0
    while len(sentence) - start > MAX_SENTENCE:
        cut = sentence.rfind(" ", start + MAX_SENTENCE // 2, start + MAX_SENTENCE)
        cut = cut if cut > 0 else start + MAX_SENTENCE
        yield sentence[start:cut].strip()
        start = cut
    yield sentence[start:].strip()


# ---- word lists: function words by language, abbreviations, names of sections

_FUNCTION_WORDS = {
    "en": """
        a about above after again against all also am an and any are as at be because been before being below between
        both but by can could did do does doing don't down during each either else etc even ever every few for from
        further get had has have having he her here hers him his how however i if in into is isn't it its it's itself
        just less like made make many may me might more most much must my neither no nor not now of off on once one only
        or other our out over own per same shall she should since so some such than that that's the their them then
        there these they this those three through thus to too two under until up upon us use used uses using very via
        was we well were what when where whether which while who whom whose why will with within without would yes yet
        you your""",
    "de": """
        aber alle als also am an auch auf aus bei bin bis bist da damit dann das dass dem den der des die dies diese
        dieser doch dort du durch ein eine einem einen einer eines er es für gegen hat hatte ich ihr im in ist ja jede
        kann kein keine man mehr mit muss nach nicht noch nun nur ob oder ohne sehr sein seine sich sie sind so über um
        und uns unter vom von vor war was wenn werden wie wir wird wo zu zum zur""",
    "fr": """
        alors au aux avec ce ces cette comme dans de des du elle en est et être eu fait il ils je la le les leur lui
        mais même ne nos notre nous on ont ou où par pas plus pour qu que qui sa sans se ses si son sont sur tout très
        tu un une vous y à été""",
    "es": """
        al algo como con cuando de del desde donde dos el ella en entre era es esta este esto fue ha hay la las lo los
        más me mi muy no nos o para pero por porque que qué se ser si sin sobre son su sus también tiene todo un una y
        ya""",
    "it": """
        al alla anche che chi ci come con cui da dal dalla dei del della delle di e è essere fra gli ha i il in io la le
        lo ma nel nella non o per perché più quando questa questo se si sia sono su sua suo tra un una uno""",
    "pt": """
        ao aos as com como da das de do dos e é ela ele em entre era essa este foi há isso já mais mas não na nas no nos
        o os ou para pela pelo por que quem se sem ser seu sua são também tem um uma""",
    "nl": """
        aan al als bij dan dat de der deze die dit door een en er had heeft het hij hoe ik in is je kan maar met na naar
        niet nog of om ook op over te tot uit van voor was wat we wel werd wij wordt ze zich zijn zo""",
}
STOP_WORDS = {language: frozenset(words.split()) for language, words in _FUNCTION_WORDS.items()}
_ABBREVIATIONS = """
    al approx art bzw ca cf chap dept dr e.g ed eds eq eqs est etc fig figs hr i.e inc jr kap lit ltd max min mr mrs ms mt
    no nos nr op p.a pp prof ref refs resp sec sen sr st tab u.a u.k u.s usw vgl viz vol vs z.b"""
ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())
_SECTIONS = """
    abstract acknowledgements acknowledgments appendix background conclusion conclusions contents discussion findings introduction
    limitations methodology method methods overview recommendations references results summary"""
SECTIONS = frozenset(_SECTIONS.split())

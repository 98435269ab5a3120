"""Figures as people read them."""

from __future__ import annotations

import pytest

from monolith.content import formatting


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.01, "under 0.1 s"), (0.44, "0.4 s"), (59.6, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (90000, "1 d 1 h"), (None, "")],
)
def test_durations_read_well(seconds: float | None, words: str) -> None:
    assert formatting.duration(seconds) == words


@pytest.mark.parametrize(("count", "words"), [(0, "0 B"), (1023, "1023 B"), (2048, "2 kB"), (10 * 1024 * 1024, "10.0 MB"), (None, "")])
def test_sizes_read_well(count: int | None, words: str) -> None:
    assert formatting.size(count) == words


@pytest.mark.parametrize(("score", "word"), [(0, "Early"), (0.25, "Developing"), (0.74, "Established"), (1, "Mature")])
def test_maturity_has_a_word(score: float, word: str) -> None:
    assert formatting.maturity_words(score) == word

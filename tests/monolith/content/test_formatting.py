"""Figures as people read them."""

from __future__ import annotations

from datetime import timedelta, timezone

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


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1764055800", 1764055800),
        ("1764055800.5", 1764055800.5),
        ("2025-11-25", 1764028800),
        (" 2025-11-25T07:30 ", 1764055800),
        ("2025-11-25T07:30:00Z", 1764055800),
        ("2025-11-25T08:30+01:00", 1764055800),
    ],
)
def test_a_moment_is_read_as_it_is_written(text: str, seconds: float) -> None:
    assert formatting.parse_moment(text) == seconds


def test_a_moment_without_a_zone_is_in_the_one_given() -> None:
    assert formatting.parse_moment("2025-11-25T08:30", timezone(timedelta(hours=1))) == 1764055800


@pytest.mark.parametrize("text", ["", "tomorrow", "9999999999999999999", "0001-01-01T00:00+23:00x", "nan", "-5"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        formatting.parse_moment(text)


def test_a_moment_is_written_in_utc() -> None:
    assert formatting.rfc3339(1764055800.25) == "2025-11-25T07:30:00.250Z"
    assert formatting.rfc3339(1764055800.25, "seconds") == "2025-11-25T07:30:00Z"
    assert formatting.rfc3339(None) is None

"""What reads strangers' input, given all hypothesis thinks of: it answers or refuses in its own words, letting in what is harmless."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.tools.project import archive
from jobs.tools.quality import form_fields
from monolith import strict_json
from monolith.auth.sign_in_pages import path_after
from monolith.content import markdown_html
from monolith.content.fetch import retry_after_s, url_problem
from monolith.content.formatting import csv_text
from monolith.documents import submission, uploads
from monolith.errors import Problem
from monolith.job_types.registry import Permanent
from monolith.logs import mask
from monolith.runner.worker.rq_message import ID, why_refused

profile = settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
texts = st.text(max_size=300) | st.text(alphabet="<>&\"'=+-@[](){}#*`_~!|:/\\.,%0aA \t\r\n\0\u202e\ufeffé", max_size=200)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@profile
@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_json_is_read_or_refused_and_what_is_read_can_be_stored(content: bytes) -> None:
    try:
        value = strict_json.loads(content)
    except ValueError:
        return
    again = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    assert strict_json.loads(again) == value and b"\\u0000" not in again


@profile
@given(st.sampled_from(["/", "//", "/\\", "https://", "javascript:", "", "\t/", "/\t/"]), texts)
def test_signing_in_leads_to_own_paths_only(begin: str, rest: str) -> None:
    path = path_after(begin + rest, "/")
    assert path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()


@profile
@given(texts)
def test_a_filename_is_one_name_of_a_file(name: str) -> None:
    safe = uploads.safe_filename(name)
    assert "/" not in safe and "\\" not in safe and safe not in (".", "..") and "\0" not in safe and "\n" not in safe
    assert len(safe) <= 255


@profile
@given(texts, st.binary(max_size=300))
def test_a_file_is_taken_for_what_it_is_or_refused(name: str, content: bytes) -> None:
    try:
        document = uploads.from_file(1, name, content)
    except Problem as refused:
        assert refused.detail
    else:
        assert document.content == content and "\0" not in document.title


@profile
@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.lists(st.integers())))
def test_a_priority_and_a_delay_are_one_of_ours_or_refused(value: Any) -> None:
    for read in (submission.priority, submission.delay):
        try:
            found = read(value)
        except Problem as refused:
            assert refused.errors
        else:
            assert found in ("low", "normal", "high", "critical") or (isinstance(found, float) and 0 <= found <= submission.MAX_DELAY_S)


@profile
@given(texts)
def test_a_server_that_asks_to_wait_asks_for_a_bounded_time(value: str) -> None:
    waited = retry_after_s({"Retry-After": value})
    assert waited is None or (math.isfinite(waited) and 0 < waited <= 3600)


@profile
@given(texts)
def test_markdown_of_strangers_holds_nothing_that_acts(markdown: str) -> None:
    for html in (markdown_html.html_of(markdown), markdown_html.html_of(markdown_html.sanitise(markdown))):
        assert (
            re.search(r"<(?:script|img|iframe|object|embed|style|form|svg|base|meta)|\son\w+\s*=[^<>]*>|javascript:[^<]*\">", html, re.I)
            is None
        )
        assert all(address.startswith(("http://", "https://", "#")) for address in re.findall(r'href="([^"]*)"', html))


@profile
@given(texts)
def test_a_cell_of_a_table_is_no_formula(text: str) -> None:
    assert not csv_text(text).startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


@profile
@given(
    st.binary(max_size=600)
    | st.binary(max_size=200).map(lambda rest: b"PK\x03\x04" + rest)
    | st.binary(max_size=300).map(lambda rest: b"\x1f\x8b" + rest)
)
def test_an_archive_is_read_or_refused(content: bytes) -> None:
    try:
        files = archive.read_files(content)
    except Permanent as refused:
        assert str(refused)
    else:
        assert all(not name.startswith("/") and ".." not in name.split("/") for name in files)


@profile
@given(texts)
def test_an_application_of_any_text_is_read(text: str) -> None:
    found = form_fields.entries(text)
    assert all(one.label for one in found) and form_fields.dates(text) is not None


@profile
@given(texts)
def test_an_address_is_refused_in_words_or_has_a_host(url: str) -> None:
    for one in (url, f"http://{url}"):
        assert url_problem(one) is None or url_problem(one)
        if url_problem(one) is None:
            assert one.startswith(("http://", "https://")) and "@" not in one.split("/")[2]


@profile
@given(
    st.text(max_size=60), st.dictionaries(st.sampled_from([b"data", b"timeout", b"status", b"origin", b"webhooks"]), st.binary(max_size=60))
)
def test_no_message_but_ours_is_accepted(job_id: str, fields: dict[bytes, bytes]) -> None:
    assert why_refused(job_id, fields) or ID.fullmatch(job_id)


@pytest.mark.parametrize(
    "secret", ["intray_" + "A" * 43, "sk-" + "a1" * 20, "postgresql://u:hunter22@db/x", "Authorization: Bearer abcdefgh12345678"]
)
@profile
@given(around=texts)
def test_a_secret_is_masked_wherever_it_stands(secret: str, around: str) -> None:
    masked = mask(f"{around} {secret} {around}")
    assert "hunter22" not in masked and "A" * 43 not in masked and "a1" * 20 not in masked and "abcdefgh12345678" not in masked

"""PDFs and Word files that are made to take all memory or time: the process that reads them ends, and the job says why."""

from __future__ import annotations

import os
import resource
import zlib

import pytest

from monolith.content import extract_text
from monolith.content.extract_text import text_of
from monolith.content.fetch import DOCX
from monolith.job_types.registry import Permanent
from tests.support import documents

pytestmark = pytest.mark.slow

PDF = "application/pdf"
DRAWN = b"BT /F 9 Tf (said) Tj ET "
MEGABYTE = 1024 * 1024
NAMESPACE = b'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def packed(content: bytes, times: int = 1) -> bytes:
    for _ in range(times):
        content = zlib.compress(content, 9)
    return content


def word_of(body: bytes) -> bytes:
    xml = b"<w:document %b><w:body>%b</w:body></w:document>" % (NAMESPACE, body)
    return documents.with_member(documents.word(), "word/document.xml", xml)


def varied(number: int) -> bytes:
    """Paragraphs that do not pack well enough to be refused for that."""
    return b"".join(b"<w:p><w:r><w:t>%b</w:t></w:r></w:p>" % os.urandom(8).hex().encode() for _ in range(number))


HOSTILE = {
    "a stream that swells to 200 MB": (lambda: documents.pdf_of(packed(b" " * 200 * MEGABYTE), "/Filter/FlateDecode"), PDF),
    "a stream packed three times": (
        lambda: documents.pdf_of(packed(b" " * 500 * MEGABYTE, 3), "/Filter[/FlateDecode/FlateDecode/FlateDecode]"),
        PDF,
    ),
    "arrays in arrays": (lambda: documents.pdf_of(DRAWN, "/Deep" + "[" * 100_000 + "]" * 100_000), PDF),
    "operands in operands": (lambda: documents.pdf_of(b"[" * 500_000 + b"]" * 500_000 + b" TJ"), PDF),
    "ten million elements": (lambda: word_of(varied(100_000) + b"<w:p/>" * 12_000_000), DOCX),
    "elements in elements": (lambda: word_of(b"<w:p>" * 200_000 + varied(10) + b"</w:p>" * 200_000), DOCX),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_hostile_document_ends_within_limits_with_words_on_what_to_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract_text, "WALL_S", 600)  # the limits that end it are those of the kernel
    make, media_type = HOSTILE[name]
    content = make()
    assert len(content) < 10 * MEGABYTE
    with pytest.raises(Permanent, match=r"(Export|Save|Split|Submit|split|Run text recognition)"):
        text_of(content, media_type)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 <= extract_text.MEMORY


@pytest.mark.parametrize(
    ("limit", "most", "said"),
    [("CPU_S", 2, "takes more than 2 s to read"), ("MEMORY", 192 * MEGABYTE, "needs more than 192 MB of memory to read")],
    ids=["time", "memory"],
)
def test_the_kernel_ends_what_takes_more_than_the_limits(monkeypatch: pytest.MonkeyPatch, limit: str, most: int, said: str) -> None:
    monkeypatch.setattr(extract_text, limit, most)
    with pytest.raises(Permanent, match=said):
        text_of(documents.pdf_of(packed(DRAWN * 1_000_000), "/Filter/FlateDecode"), PDF)

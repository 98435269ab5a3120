"""Reading real files of every kind, and what is said of those that cannot be read."""

from __future__ import annotations

import codecs
from pathlib import Path

import docx
import pytest

from monolith.content import extract_text
from monolith.content.extract_text import text_of, title_of
from monolith.content.fetch import DOCX
from monolith.job_types.registry import Permanent
from tests.support import documents

PDF = "application/pdf"
PAGE = """<!doctype html><html><head><title> The
 store </title><style>p{color:red}</style></head><body><nav><a href="/">Home</a></nav><article><h1>The store</h1>
<p>The store keeps its data in memory and writes it to disk every second, so that little is lost when a machine fails.</p>
<p>It serves a hundred thousand requests a second on one core, and most of the teams that use it never need a second one.</p>
</article><script>alert(1)</script></body></html>"""


@pytest.mark.parametrize(
    ("content", "media_type", "text"),
    [
        (b"plain\r\nwords", "text/plain", "plain\nwords"),
        ("Grüße, 世界".encode(), "text/plain", "Grüße, 世界"),
        (codecs.BOM_UTF8 + "Grüße".encode(), "text/plain", "Grüße"),
        ("Grüße".encode("utf-16"), "text/plain", "Grüße"),
        ("Grüße".encode("utf-32"), "text/plain", "Grüße"),
        (codecs.BOM_UTF16_BE + "Grüße".encode("utf-16-be"), "text/plain", "Grüße"),
        ("Grüße für 5 €".encode("cp1252"), "text/plain; charset=iso-8859-1", "Grüße für 5 €"),
        ("Привет".encode("koi8-r"), "text/plain; charset=koi8-r", "Привет"),
        ("Grüße".encode(), "text/plain; charset=iso-8859-1", "Grüße"),
        ("Grüße aus der schönen Stadt".encode("cp1252"), "text/plain; charset=no-such-one", "Grüße aus der schönen Stadt"),
        (b"a,b\n1,2", "text/csv", "a,b\n1,2"),
        (b'{"a": 1}', "application/json", '{"a": 1}'),
    ],
)
def test_text_is_decoded_whatever_its_charset(content: bytes, media_type: str, text: str) -> None:
    assert text_of(content, media_type) == text


def test_a_stray_control_character_is_left_out() -> None:
    assert text_of(b"a bell \x07 " + b"and more " * 50, "text/plain").startswith("a bell  and more")


def test_text_in_an_undeclared_old_charset_is_guessed() -> None:
    russian = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 5
    assert text_of(russian.encode("cp1251"), "text/plain") == russian.strip()


@pytest.mark.parametrize("content", [b"\x7fELF\x00\x01\x02" * 100, b"MZ\x90\x00\x03", bytes(range(256)) * 10])
def test_a_binary_file_named_txt_is_refused(content: bytes) -> None:
    with pytest.raises(Permanent, match="not text"):
        text_of(content, "text/plain")


@pytest.mark.parametrize(("content", "kind"), [(b"", "text/plain"), (b" \n\t", "text/plain"), (b"<html><body></body></html>", "text/html")])
def test_a_document_with_nothing_in_it_is_refused(content: bytes, kind: str) -> None:
    with pytest.raises(Permanent, match="no text"):
        text_of(content, kind)


def test_too_much_text_is_refused_with_the_limit_named() -> None:
    with pytest.raises(Permanent, match="at most 2,000,000"):
        text_of(b"x" * (extract_text.MAX_TEXT + 1), "text/plain")
    assert len(text_of(b"x" * extract_text.MAX_TEXT, "text/plain")) == extract_text.MAX_TEXT


def test_the_main_content_of_a_page_is_read_with_its_headings() -> None:
    text = text_of(PAGE.encode(), "text/html")
    assert "# The store" in text and "every second" in text
    assert "alert" not in text and "color" not in text and "Home" not in text
    assert title_of(PAGE.encode(), "text/html") == "The store"


@pytest.mark.parametrize(
    "page", ["<p>Only this.</p>", "<html><body><div>Only <b>this.</b></div><script>no()</script></body></html>", "Only this."]
)
def test_all_visible_text_of_a_page_is_read_when_no_main_content_stands_out(page: str) -> None:
    assert " ".join(text_of(page.encode(), "text/html").replace("*", "").split()) == "Only this."


@pytest.mark.parametrize(
    ("head", "charset", "media_type"),
    [
        ('<meta charset="windows-1251">', "cp1251", "text/html"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=windows-1251">', "cp1251", "text/html"),
        ("", "cp1251", "text/html; charset=windows-1251"),
        ('<meta charset="windows-1251">', "utf-8", "text/html"),
        ("", "utf-8", "text/html; charset=latin-1"),
    ],
)
def test_the_charset_of_a_page_is_found(head: str, charset: str, media_type: str) -> None:
    page = f"<html><head>{head}<title>Привет</title></head><body><p>Добрый день</p></body></html>".encode(charset)
    assert text_of(page, media_type) == "Добрый день"
    assert title_of(page, media_type) == "Привет"


def test_a_page_nested_thousands_deep_is_read_or_refused() -> None:
    page = b"<div>" * 20_000 + b"deep" + b"</div>" * 20_000
    try:
        assert isinstance(text_of(page, "text/html"), str)
    except Permanent as refused:
        assert "no text" in str(refused)


def test_an_external_entity_is_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    page = f'<?xml version="1.0"?><!DOCTYPE html [<!ENTITY x SYSTEM "{secret.as_uri()}">]><html><body><p>See &x; here</p></body></html>'
    assert "hunter2" not in text_of(page.encode(), "application/xhtml+xml")


def test_a_pdf_of_twenty_pages_is_read_in_order_without_its_page_headers() -> None:
    pages = [f"Chapter {number}\nThis is what chapter number {number} says." for number in range(1, 21)]
    lines = text_of(documents.pdf(pages, header="Boat Builders"), PDF).split("\n")
    assert [line for line in lines if line] == "\n".join(pages).split("\n")


def test_a_word_broken_at_the_end_of_a_line_is_mended() -> None:
    assert "understanding" in text_of(documents.pdf(["We come to an under-\nstanding of it."]), PDF)


def test_a_pdf_behind_a_password_is_refused() -> None:
    with pytest.raises(Permanent, match="password-protected. Remove the password and submit it again"):
        text_of(documents.pdf(["secret"], password="hunter2"), PDF)


def test_a_pdf_that_anybody_may_open_but_not_change_is_read() -> None:
    assert text_of(documents.pdf(["open to read"], password="hunter2", owner_only=True), PDF) == "open to read"


def test_a_pdf_without_text_is_refused_as_a_scan() -> None:
    with pytest.raises(Permanent, match="scan. Run text recognition"):
        text_of(documents.scan(), PDF)


@pytest.mark.parametrize("content", [b"%PDF-1.7\nnothing", b"not a pdf", b"%PDF-1.4\n%%EOF", documents.pdf(["whole"])[:300]])
def test_a_broken_pdf_is_refused(content: bytes) -> None:
    with pytest.raises(Permanent, match="damaged and cannot be opened|has no text"):
        text_of(content, PDF)


def test_a_pdf_of_too_many_pages_is_refused_with_the_limit_named() -> None:
    assert text_of(documents.pdf(["a"] * extract_text.MAX_PDF_PAGES), PDF)
    with pytest.raises(Permanent, match="has 201 pages; at most 200"):
        text_of(documents.pdf(["a"] * (extract_text.MAX_PDF_PAGES + 1)), PDF)


def test_a_pdf_served_as_html_is_still_a_pdf() -> None:
    assert text_of(documents.pdf(["a real PDF"]), "text/html") == "a real PDF"


def test_a_word_document_is_read_in_order_with_headings_lists_and_tables() -> None:
    expected = "# Yearly report\n\nWe sold more boats than ever.\n\n## Numbers\n\n| Year | Boats |\n| 2025 | 17 |\n\n- Buy more wood"
    assert text_of(documents.word(), DOCX) == expected


def test_an_empty_word_document_is_refused() -> None:
    with pytest.raises(Permanent, match="no text"):
        text_of(documents.saved(docx.Document()), DOCX)


@pytest.mark.parametrize(
    "content",
    [
        b"not a zip",
        b"PK\x03\x04broken",
        documents.word()[:2000],
        documents.with_member(documents.word(), "word/document.xml", b"<not xml"),
        documents.with_member(documents.word(), "[Content_Types].xml", b"<Types/>"),
    ],
)
def test_what_is_not_a_word_document_is_refused(content: bytes) -> None:
    with pytest.raises(Permanent, match="not a Word document|Word document .* cannot be opened"):
        text_of(content, DOCX)


def test_a_word_document_that_unpacks_to_a_bomb_is_not_opened() -> None:
    bomb = documents.with_member(documents.word(), "word/media/bomb.bin", b"\0" * (20 * 1024 * 1024))
    with pytest.raises(Permanent, match="unpacks to far more"):
        text_of(bomb, DOCX)


@pytest.mark.parametrize("entity", ['SYSTEM "{uri}"', '"&b;&b;&b;&b;&b;&b;&b;&b;"'])
def test_entities_in_a_word_document_are_not_expanded(tmp_path: Path, entity: str) -> None:
    (tmp_path / "secret").write_text("hunter2")
    body = "<w:body><w:p><w:r><w:t>Hello &x;</w:t></w:r></w:p></w:body>"
    xml = f"""<?xml version="1.0"?><!DOCTYPE w [<!ENTITY b "hunter2"><!ENTITY x {entity.format(uri=(tmp_path / "secret").as_uri())}>]>
    <w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">{body}</w:document>"""
    assert "hunter2" not in text_of(documents.with_member(documents.word(), "word/document.xml", xml.encode()), DOCX)


@pytest.mark.parametrize("media_type", ["application/zip", "application/x-tar", "application/gzip"])
def test_an_archive_is_no_text(media_type: str) -> None:
    with pytest.raises(Permanent, match="This is an archive"):
        text_of(b"PK\x03\x04", media_type)


def test_a_page_of_few_words_keeps_its_headings_and_lists() -> None:
    page = b"<h1>Tiny</h1><p>Hello there.<h3>More</h3><table><tr><td>a<td>b</table><ul><li>x</ul>"
    assert text_of(page, "text/html") == "# Tiny\n\nHello there.\n\n### More\n\na b\n\n- x"

"""Real files for tests, made on the spot."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

import docx
from fpdf import FPDF, XPos, YPos


def pdf(pages: Sequence[str], *, password: str | None = None, owner_only: bool = False, header: str = "") -> bytes:
    """A PDF with a page for each text; the first line of a text is its heading."""
    document = FPDF()
    for number, text in enumerate(pages, start=1):
        document.add_page()
        document.set_font("Helvetica", size=11)
        if header:
            document.cell(text=f"{header} - page {number}", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        document.multi_cell(0, text=text)
    if password:
        document.set_encryption(owner_password=password, user_password="" if owner_only else password)
    return bytes(document.output())


def scan() -> bytes:
    """A PDF of two pages with a drawing on each and no text."""
    document = FPDF()
    for _ in range(2):
        document.add_page()
        document.rect(20, 20, 100, 100, style="F")
    return bytes(document.output())


def word() -> bytes:
    """A Word document with a title, headings, a list and a table between paragraphs."""
    document = docx.Document()
    document.add_heading("Yearly report", level=0)
    document.add_paragraph("We sold more boats than ever.")
    document.add_heading("Numbers", level=2)
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip([cell for row in table.rows for cell in row.cells], ["Year", "Boats", "2025", "17"], strict=True):
        cell.text = text
    document.add_paragraph("Buy more wood", style="List Bullet")
    return saved(document)


def saved(document: docx.document.Document) -> bytes:
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def with_member(package: bytes, name: str, content: bytes) -> bytes:
    """The zip with one member replaced or added."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(package)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            if member != name:
                new.writestr(member, old.read(member))
        new.writestr(name, content)
    return file.getvalue()


def pdf_of(content: bytes, entries: str = "") -> bytes:
    """A PDF of one page with this content stream, written by hand; `entries` go beside the length of it."""
    font = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Resources<</Font<</F 5 0 R>>>>/Contents 4 0 R>>"
    stream = f"<</Length {len(content)}{entries}>>stream\n".encode() + content + b"\nendstream"
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>", page, stream, font]
    written, places = b"%PDF-1.7\n", []
    for number, one in enumerate(objects, start=1):
        places.append(len(written))
        written += b"%d 0 obj\n%b\nendobj\n" % (number, one)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % len(written)
    return written + b"xref\n0 6\n0000000000 65535 f \n" + table + end

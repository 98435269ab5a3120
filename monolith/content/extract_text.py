"""Extracts the text of a document: plain text, Markdown, HTML, PDF and Word. Every failure is `Permanent` and says what to do.

Nothing is cut silently: a document that exceeds a limit is refused, and the message names the limit. PDF and Word are parsed in a
subprocess with limits on memory and CPU time.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import resource
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from monolith.config import ROOT
from monolith.content.fetch import DOCX, fetch
from monolith.errors import Permanent
from monolith.job_types.interface import Document

if TYPE_CHECKING:
    from docx.table import Table
    from docx.text.paragraph import Paragraph
    from pypdf import PdfReader

MEMORY = 1024 * 1024 * 1024  # bytes of address space
CPU_S = 60
WALL_S = 240  # elapsed, on a busy machine
REFUSED, TOO_LARGE = 3, 4  # exit codes of the subprocess: the reason is on stdout; it needs more than MEMORY

MAX_TEXT = 2_000_000  # characters
MAX_PDF_PAGES = 200
MAX_UNZIPPED = 100 * 1024 * 1024  # bytes
MAX_ZIP_RATIO = 100
MAX_ZIP_MEMBERS = 5_000
ARCHIVE_TYPES = ("application/zip", "application/x-tar", "application/gzip")
HTML_TYPES = ("text/html", "application/xhtml+xml")
BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"} | {
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
BLOCKS = "//p | //div | //br | //li | //tr | //h1 | //h2 | //h3 | //h4 | //h5 | //h6 | //section | //pre | //dt | //dd"
MARKS = {f"h{level}": f"{'#' * level} " for level in range(1, 7)} | {"li": "- "}
HIDDEN_TAGS = ("script", "style", "noscript", "template", "title")
LIGATURES = str.maketrans({"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "\u00ad": "", "\u00a0": " "})


def read_document(document: Document) -> str:
    """Returns the text of a document, which is fetched first if only its URL is known. Raises `Permanent` if there is none."""
    if document.content is None:
        if not document.source_url:
            raise Permanent("The document has no content. Submit it again.")
        page = fetch(document.source_url)
        document.keep(page.content, page.media_type, title_of(page.content, page.media_type))
    return text_of(document.content or b"", document.media_type)


def text_of(content: bytes, media_type: str) -> str:
    """Returns the text of the content. The media type may have a charset. Raises `Permanent`."""
    kind, _, parameters = media_type.partition(";")
    if kind in ARCHIVE_TYPES:
        raise Permanent("This is an archive, which has no text of its own. Run a different job on it, or submit one of its files.")
    if content.lstrip()[:5] == b"%PDF-" or kind == "application/pdf":
        text = _text_in_subprocess("pdf", content)
    elif content[:4] == b"PK\x03\x04" or kind == DOCX:
        text = _text_in_subprocess("docx", content)
    elif kind in HTML_TYPES:
        text = _text_of_html(_decoded_html(content, parameters))
    else:
        text = _decoded(content, _charset_in(parameters))
    return _checked(text)


def title_of(content: bytes, media_type: str) -> str | None:
    """Returns the title of an HTML page on one line; None for anything else."""
    tree = tree_of(content, media_type)
    found = "" if tree is None else tree.xpath("string((//head/title | //title)[1])")
    return " ".join(str(found).split())[:300] or None


def tree_of(content: bytes, media_type: str) -> Any | None:
    """Parses an HTML page with lxml; None for anything else and for a page that cannot be parsed."""
    kind, _, parameters = media_type.partition(";")
    if kind not in HTML_TYPES:
        return None
    from lxml import etree

    try:
        return _tree(_decoded_html(content, parameters))
    except (etree.LxmlError, ValueError, Permanent):
        return None


def _checked(text: str) -> str:
    """Removes characters that JSON or SQL cannot store. Raises `Permanent` if the text is empty or too long."""
    text = re.sub(r"[\x00-\x08\x0b\x0e-\x1f\x7f\ufffe\uffff]", "", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = text.encode("utf-8", "replace").decode().translate(LIGATURES).strip()
    if not text:
        raise Permanent("The document has no text. Submit one that has text.")
    if len(text) > MAX_TEXT:
        raise Permanent(f"The document has {len(text):,} characters of text; at most {MAX_TEXT:,} are read. Split it and submit the parts.")
    return text


def _decoded(content: bytes, declared: str | None) -> str:
    """Decodes by byte order mark, as UTF-8, as declared, or by detection, whichever succeeds first.

    UTF-8 comes before the declaration because text is hardly ever valid UTF-8 by chance, while declarations are often wrong.
    """
    bom_encoding = next((encoding for mark, encoding in BOMS.items() if content.startswith(mark)), None)
    start = content[: 64 * 1024]
    controls = len(re.findall(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", start))
    if bom_encoding is None and (b"\x00" in start or controls * 100 > len(start)):
        raise Permanent("This is not text: it contains binary data. Submit a text file, a PDF or a Word document (.docx).")
    for encoding in filter(None, (bom_encoding, "utf-8", declared)):
        try:
            return content.decode(encoding)
        except (UnicodeError, LookupError):
            continue
    from charset_normalizer import from_bytes

    best = from_bytes(content[: 256 * 1024]).best()
    if best is None:
        raise Permanent("The character encoding is not recognised. Save it as UTF-8 text and submit it again.")
    return content.decode(best.encoding, "replace")


def _charset_in(parameters: str) -> str | None:
    """The declared charset as browsers interpret it: on the web, Latin-1 means Windows-1252."""
    declared = re.search(r"(?:charset|encoding)\s*=\s*[\"']?\s*([\w.:-]+)", parameters, re.IGNORECASE)
    try:
        name = codecs.lookup(declared[1]).name if declared else None
    except LookupError:
        return None
    return "cp1252" if name in ("iso8859-1", "ascii") else name


def _decoded_html(content: bytes, parameters: str) -> str:
    head = content[:4096].decode("latin-1")  # where a <meta charset> would be
    return _decoded(content, _charset_in(parameters) or _charset_in(head))


def _text_of_html(page: str) -> str:
    """The main content as Markdown, or all visible text if no main content is found."""
    import trafilatura

    try:
        main = trafilatura.extract(page, output_format="markdown", include_comments=False, include_tables=True)
    except (ValueError, RecursionError):
        main = None
    return main if main and len(main) >= 100 else max(main or "", _visible_text(page), key=len)


def _visible_text(page: str) -> str:
    from lxml import etree

    try:
        tree = _tree(page)
    except (etree.LxmlError, ValueError):
        raise Permanent("The page has no text. Submit the text itself.") from None
    for cell in tree.xpath("//td | //th"):
        cell.tail = f" {cell.tail or ''}"
    for block in tree.xpath(BLOCKS):
        block.text, block.tail = f"\n\n{MARKS.get(block.tag, '')}{block.text or ''}", f"\n\n{block.tail or ''}"
    visible = "".join(tree.xpath(f"//body//text()[not({' or '.join(f'ancestor::{tag}' for tag in HIDDEN_TAGS)})]"))
    return "\n\n".join(line for line in (" ".join(part.split()) for part in visible.split("\n\n")) if line)


def _tree(page: str) -> Any:
    from lxml import html

    return html.document_fromstring(page.encode(), parser=html.HTMLParser(encoding="utf-8", no_network=True))


def _text_of_pdf(content: bytes) -> str:
    from pypdf import PasswordType, PdfReader

    try:
        reader = PdfReader(io.BytesIO(content))
        locked = reader.is_encrypted and reader.decrypt("") == PasswordType.NOT_DECRYPTED
        pages = 0 if locked else len(reader.pages)
    except MemoryError:
        raise
    except Exception:  # the pypdf documentation: "broken PDF files might cause other Exceptions"
        raise Permanent("The PDF is damaged and cannot be opened. Export it again and submit the new file.") from None
    if locked:
        raise Permanent("The PDF is password-protected. Remove the password and submit it again.")
    if pages > MAX_PDF_PAGES:
        raise Permanent(f"The PDF has {pages} pages; at most {MAX_PDF_PAGES} are read. Split it and submit the parts.")
    return _joined(list(_page_texts(reader)))


def _page_texts(reader: PdfReader) -> Iterator[str]:
    """Yields the text of each page, or a note for a page that cannot be read. Raises `Permanent` if no page has text."""
    total, broken, with_text = 0, 0, 0
    for number, page in enumerate(reader.pages, start=1):
        try:
            text = page.extract_text()
        except MemoryError:
            raise
        except Exception:  # one bad page must not fail the others
            broken, text = broken + 1, f"[Page {number} of the PDF could not be read.]"
        else:
            with_text += bool(text.strip())
        if (total := total + len(text)) > 2 * MAX_TEXT:
            raise Permanent(f"The PDF has more than {MAX_TEXT:,} characters of text. Split it and submit the parts.")
        yield text
    if not with_text and broken:
        raise Permanent("The pages of the PDF are damaged and cannot be read. Export it again and submit the new file.")
    if not with_text:
        raise Permanent("The PDF has no text: it is probably a scan. Run text recognition (OCR) on it and submit it again.")


def _joined(pages: list[str]) -> str:
    """Joins the pages, rejoins hyphenated words, and removes headers and footers.

    A header or footer is a first or last line that is repeated on most pages, or on some pages with a page number.
    """
    rows = [[line.rstrip() for line in page.strip().split("\n")] for page in pages]
    edges = [edge for lines in rows if len(lines) > 2 for edge in {lines[0].strip(), lines[-1].strip()}]
    times = Counter(_unnumbered(edge) for edge in edges)
    repeated = {bare for edge in edges if times[bare := _unnumbered(edge)] > (2 if bare != edge else max(2, len(pages) // 2))}
    kept = ["\n".join(_without_edges(lines, repeated)) for lines in rows]
    return re.sub(r"([^\W\d_])-\n([a-zà-ÿ])", r"\1\2", "\n\n".join(page for page in kept if page))


def _unnumbered(line: str) -> str:
    """The line without a page number at its start or end."""
    return re.sub(r"^\d+\s*|(?:(?<!\s)\s+|(?<!\d))\d+(?: (?:of|/) \d+)?$", "", line.strip())


def _without_edges(lines: list[str], repeated: set[str]) -> list[str]:
    if len(lines) < 3:
        return lines
    start = 1 if _unnumbered(lines[0]) in repeated else 0
    return lines[start : -1 if _unnumbered(lines[-1]) in repeated else None]


def _text_of_docx(content: bytes) -> str:
    import docx

    _check_zip(content)
    try:
        return _checked("\n\n".join(_blocks(docx.Document(io.BytesIO(content)))))
    except (MemoryError, Permanent):
        raise
    except Exception:  # python-docx lets exceptions of zipfile and lxml through
        raise Permanent("The Word document (.docx) cannot be opened. Save it as .docx again and submit the new file.") from None


def _check_zip(content: bytes) -> None:
    """Refuses a zip bomb. The declared sizes can be relied on: zipfile reads no more than that of a member."""
    try:
        members = zipfile.ZipFile(io.BytesIO(content)).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        raise Permanent("This is not a Word document (.docx), although it claims to be. Save it as .docx again.") from None
    size = sum(member.file_size for member in members)
    is_bomb = size > 1024 * 1024 and size > MAX_ZIP_RATIO * len(content)
    if size > MAX_UNZIPPED or len(members) > MAX_ZIP_MEMBERS or is_bomb:
        raise Permanent("The Word document unpacks to far more data than it should, so it was not opened. Save it as .docx again.")


def _blocks(document: Any) -> Iterator[str]:
    from docx.table import Table

    names = {style.style_id: style.name or "" for style in document.styles}
    for block in document.iter_inner_content():
        # `block.style` would search all styles for each paragraph, which takes 1.2 ms.
        text = _table_text(block) if isinstance(block, Table) else _paragraph_text(block, names.get(block._p.style, ""))
        if text:
            yield text


def _paragraph_text(paragraph: Paragraph, style: str) -> str:
    text = paragraph.text.strip()
    if text and (level := re.fullmatch(r"(?:Title|Heading ([1-6]))", style)):
        return f"{'#' * int(level[1] or 1)} {' '.join(text.split())}"
    return f"- {text}" if text and style.startswith("List") else text


def _table_text(table: Table) -> str:
    rows = [[" ".join(cell.text.split()) for cell in row.cells] for row in table.rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows if any(cells))


READERS = {"pdf": _text_of_pdf, "docx": _text_of_docx}  # run in the subprocess


def _text_in_subprocess(kind: str, content: bytes) -> str:
    """The text of a `pdf` or `docx`. Raises `Permanent` if it has none or exceeds a limit of the subprocess."""
    command = [sys.executable, "-m", "monolith.content.extract_text", kind, str(MEMORY), str(CPU_S)]
    env = {"PYTHONPATH": str(ROOT), "RQ_JOB_ID": os.environ.get("RQ_JOB_ID", "")}  # workers find abandoned processes by the id
    try:
        done = subprocess.run(command, input=content, capture_output=True, env=env, cwd=ROOT, timeout=WALL_S)  # noqa: S603 - our own
    except subprocess.TimeoutExpired:
        raise _too_long() from None
    output = done.stdout.decode("utf-8", "replace")
    if done.returncode == 0:
        return output
    if done.returncode == REFUSED:
        raise Permanent(output)
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise _too_long()
    if done.returncode == TOO_LARGE or done.returncode < 0:  # C code that cannot allocate memory crashes
        megabytes = MEMORY // 1024 // 1024
        raise Permanent(
            f"The document needs more than {megabytes:,} MB of memory to read. Export it again, or split it and submit the parts."
        )
    raise RuntimeError(f"The document reader failed: {done.stderr.decode(errors='replace')[-2000:]}")


def _too_long() -> Permanent:
    return Permanent(f"The document takes more than {CPU_S} s to read. Export it again, or split it and submit the parts.")


def main() -> None:
    """Runs in the subprocess: reads the content from stdin and writes its text to stdout."""
    kind, memory, cpu_s = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))
    try:
        text = READERS[kind](sys.stdin.buffer.read())
    except Permanent as refused:
        sys.stdout.buffer.write(str(refused).encode())
        sys.exit(REFUSED)
    except MemoryError:
        sys.exit(TOO_LARGE)
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))


if __name__ == "__main__":
    main()

"""Validates text, URLs and files that users give, and makes documents of them. Errors name the field."""

from __future__ import annotations

import hashlib
import io
import re
import unicodedata
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from werkzeug.datastructures import FileStorage

from monolith.config import settings
from monolith.content.fetch import url_problem
from monolith.db.engine import storable
from monolith.db.models import Document, new_id
from monolith.errors import FieldError, Invalid, Problem, TooLarge

KINDS = ("text", "page", "file", "story", "application", "project")
MAX_TITLE = 300
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
TEXT_TYPES = {
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".rst": "text/x-rst",
    ".csv": "text/csv",
    ".json": "application/json",
    ".html": "text/html",
    ".htm": "text/html",
}
ARCHIVE_TYPES = {".zip": "application/zip", ".tar": "application/x-tar", ".tar.gz": "application/gzip", ".tgz": "application/gzip"}
MEDIA_TYPES = {**TEXT_TYPES, ".pdf": "application/pdf", ".docx": DOCX, **ARCHIVE_TYPES}
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_MISLEADING = re.compile(r"[^\w. -]+")
_BOMS = (b"\xff\xfe", b"\xfe\xff")  # UTF-16: its NULs are no sign of a binary file


def from_text(owner_id: int, text: str, **given: Any) -> Document:
    """A document of pasted text; `given` are columns such as title, kind, tags. Raises `Invalid` for no text, `TooLarge`."""
    if not text.strip():
        raise Invalid.field("/text", "The text is empty. Paste some text, or give a URL or a file.")
    content = text.encode()
    check_size(len(content), "/text")
    title = given.pop("title", None) or _first_line(text)
    return _document(owner_id, content, title=title, media_type="text/plain; charset=utf-8", **{"kind": "text", **given})


def from_url(owner_id: int, url: str, **given: Any) -> Document:
    """A document for the page at a URL; a worker fetches it later. Raises `Invalid` for what is not the http(s) URL of a page."""
    check_url(url)
    title = given.pop("title", None) or url
    return _document(owner_id, None, title=title, media_type="text/html", source_url=url, **{"kind": "page", **given})


def from_file(owner_id: int, filename: str, content: bytes, pointer: str = "/file", **given: Any) -> Document:
    """A document of an uploaded file; an archive is a project. Raises `Invalid` or `TooLarge`, naming the field `pointer`."""
    name = safe_filename(filename)
    check_size(len(content), pointer, f"{name}: ")
    media_type = media_type_of(name, content, pointer)
    title = given.pop("title", None) or name
    kind = "project" if media_type in ARCHIVE_TYPES.values() else "file"
    return _document(owner_id, content, title=title, media_type=media_type, filename=name, **{"kind": kind, **given})


def refuse_unsent(filename: str, size: str) -> Document:
    """Raises the `Invalid` or `TooLarge` that a file would get which the page did not send; `size` is its number of bytes as text."""
    name = safe_filename(filename)
    check_size(int(size[:15]) if size.isascii() and size.isdigit() else 0, "/file", f"{name}: ")
    _check_name(name, is_empty=size == "0", pointer="/file")
    limit = _megabytes(settings().max_request_bytes)
    raise Invalid.field("/file", f"{name}: Together with the other files it exceeds the limit of {limit}. Submit it separately.")


def _document(owner_id: int, content: bytes | None, *, title: str, **columns: Any) -> Document:
    return Document(
        id=new_id(),
        owner_id=owner_id,
        title=title[:MAX_TITLE],
        content=content,
        size=len(content or b""),
        sha256=hashlib.sha256(content).hexdigest() if content is not None else None,
        **columns,
    )


def _first_line(text: str) -> str:
    line = text.strip().splitlines()[0].strip().lstrip("# ").strip() or "Text"
    return line if len(line) <= 80 else f"{line[:79].rstrip()}…"


def check_size(size: int, pointer: str, prefix: str = "") -> None:
    """Raises `TooLarge` for more bytes than `MAX_UPLOAD_BYTES`; `prefix` begins the message."""
    limit = settings().max_upload_bytes
    if size > limit:
        error = f"{prefix}The content is {_megabytes(size)}; the limit is {_megabytes(limit)}. Split it, or submit a part of it."
        raise TooLarge(error, errors=Invalid.field(pointer, error).errors)


def _megabytes(size: int) -> str:
    return f"{size / 1024 / 1024:.3g} MB"


def check_url(url: str, pointer: str = "/url") -> None:
    """Raises `Invalid` for what is not an http(s) URL, contains a password, or is too long. The worker resolves the host."""
    if problem := url_problem(url):
        raise Invalid.field(pointer, problem)


def safe_filename(filename: str) -> str:
    """The last part of a file name, without control characters and at most 220 characters long; `file` if nothing is left."""
    name = PurePosixPath(unicodedata.normalize("NFC", filename).replace("\\", "/")).name
    name = "".join(char for char in name if unicodedata.category(char)[0] != "C").strip(" .")
    stem, dot, extension = name.rpartition(".")
    return f"{stem[:200]}{dot}{extension[:20]}" if name else "file"


def media_type_of(name: str, content: bytes, pointer: str) -> str:
    """The media type by the file name's extension. Raises `Invalid` when the extension is unknown, or the content does not match it."""
    extension = _check_name(name, is_empty=not content, pointer=pointer)
    try:
        _check_content(extension, content)
    except Problem as problem:
        raise Invalid.field(pointer, f"{name}: {problem.detail}") from None
    return MEDIA_TYPES[extension]


def _check_name(name: str, *, is_empty: bool, pointer: str) -> str:
    """The extension of a file name. Raises `Invalid` for an unsupported one, or an empty file."""
    extension = _extension(name)
    if is_empty:
        raise Invalid.field(pointer, f"{name}: The file is empty. Choose one with content.")
    if extension not in MEDIA_TYPES:
        ending = f"end in {extension}" if extension else "have no extension"
        raise Invalid.field(pointer, f"{name}: Files that {ending} are not supported. Use one of: {', '.join(MEDIA_TYPES)}.")
    return extension


def _extension(name: str) -> str:
    path = PurePosixPath(name.lower())
    return "".join(path.suffixes[-2:]) if path.suffixes[-2:] == [".tar", ".gz"] else path.suffix


def _check_content(extension: str, content: bytes) -> None:
    if extension == ".pdf" and b"%PDF-" not in content[:1024]:
        raise Invalid("This is not a PDF, despite its name. Export it as PDF again.")
    if extension == ".docx" and not _is_docx(content):
        raise Invalid("This is not a Word document (.docx), despite its name. Save it as .docx again.")
    if extension in ARCHIVE_TYPES and not _is_archive(extension, content):
        raise Invalid("This is not an archive, despite its name. Pack the project again as .zip or .tar.gz.")
    if extension in TEXT_TYPES and not content.startswith(_BOMS) and _CONTROL.search(content):
        raise Invalid("This is not text, despite its name: it contains binary data. Choose a text file.")
    if extension in TEXT_TYPES and not content.strip():
        raise Invalid("The file contains only blank space. Choose one with text.")


def _is_docx(content: bytes) -> bool:
    try:
        return "word/document.xml" in zipfile.ZipFile(io.BytesIO(content)).namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def _is_archive(extension: str, content: bytes) -> bool:
    """Whether the content begins as such an archive does. The worker that unpacks it checks the rest."""
    if extension == ".zip":
        return content.startswith((b"PK\x03\x04", b"PK\x05\x06"))
    return content.startswith(b"\x1f\x8b") if extension != ".tar" else content[257:262] == b"ustar"


def filename_of(document: Document) -> str:
    """The file name to download a document under: its own, or one made from its title."""
    if document.filename:
        return document.filename
    extension = next((ending for ending, media in MEDIA_TYPES.items() if media == document.media_type.partition(";")[0]), ".txt")
    stem = safe_filename(_MISLEADING.sub("_", document.title))[:80].strip(" ._")
    return f"{stem or 'document'}{extension}"


@dataclass(frozen=True)
class Upload:
    """One document of several in a request: its name, its JSON pointer, and a function that makes the document or raises `Problem`."""

    name: str
    pointer: str
    make: Callable[[], Document]


def accept_each(uploads: list[Upload]) -> tuple[list[Document], list[dict[str, str]]]:
    """The documents of the valid uploads, and the errors of the others as {name, pointer, detail}: a bad file does not affect good ones."""
    documents: list[Document] = []
    rejected: list[dict[str, str]] = []
    for one in uploads:
        try:
            documents.append(one.make())
        except Problem as problem:
            for error in problem.errors or [FieldError(problem.detail, "")]:
                pointer = error.pointer if error.pointer.startswith(one.pointer) else one.pointer + error.pointer
                rejected.append({"name": storable(one.name, 300), "pointer": pointer, "detail": error.detail})
    return documents, rejected


def read_file(file: FileStorage) -> bytes:
    """The content of an uploaded file. Its temporary file on disk, if it has one, is removed at once."""
    with file.stream as stream:
        content: bytes = stream.read()
    return content

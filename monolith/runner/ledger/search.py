"""Finding documents by their words, on SQLite (FTS5) and PostgreSQL (tsvector) alike.

Both databases get the same plain words: folded here (case, accents, ligatures) and parted by single spaces, so that their own
ideas of a word make no difference. What was typed becomes words too, so no search has a wrong syntax.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from sqlalchemy import ColumnElement, ForeignKey, String, Text, false, func, literal_column, select, text, update
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import InstrumentedAttribute, Mapped, Session, mapped_column
from sqlalchemy.sql.functions import FunctionElement

from monolith.db.engine import get_engine, read_session, write_session
from monolith.db.models import Base, Document

MAX_BYTES = 400_000  # of a document's words: PostgreSQL's tsvector holds 1 MB, and a word takes at most twice its length there
MAX_WORD = 64
MAX_TERMS = 20
PLAIN = ("text/plain", "text/markdown", "text/x-rst", "text/csv", "application/json")  # what is read without a worker
_WORD = re.compile(r"[^\W_]+")
_ACCENTS = re.compile("[\u0300-\u036f]")
_TERM = re.compile(r'"([^"]*)"?|([^\s"]+)')


class DocumentText(Base):
    """The words of a document: of its names at once, of its text as soon as they are known."""

    __tablename__ = "document_texts"

    id: Mapped[int] = mapped_column(primary_key=True)
    document_id: Mapped[str] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"), unique=True)
    names: Mapped[str] = mapped_column(Text)  # title, file name and address
    words: Mapped[str] = mapped_column(Text)
    is_read: Mapped[bool]  # whether `words` is of the text and not still empty


# ---- keeping


def entry(document: Document) -> DocumentText:
    """The row that goes along with a new document. A page, a PDF or the like has no words before a worker has read it."""
    is_plain = document.media_type.partition(";")[0] in PLAIN
    words = _folded(_decoded(document.content or b"")) if is_plain else ""
    return DocumentText(document_id=document.id, names=_names(document), words=words, is_read=is_plain)


def keep_names(session: Session, document: Any) -> None:
    """Write the names anew, in the transaction that changes them."""
    session.execute(update(DocumentText).where(DocumentText.document_id == document.id).values(names=_names(document)))


def keep_text(document_id: str, read: str) -> None:
    """Write the words of a text that a worker has read; once, as a document's text stays the same."""
    missing = (DocumentText.document_id == document_id, DocumentText.is_read == false())
    with read_session() as session:
        if session.scalar(select(DocumentText.id).where(*missing)) is None:
            return
    with write_session() as session:
        session.execute(update(DocumentText).where(*missing).values(words=_folded(read), is_read=True))


def _names(document: Any) -> str:
    return _folded(" ".join(one for one in (document.title, document.filename, document.source_url) if one))


def _decoded(content: bytes) -> str:
    start = content[: MAX_BYTES * 2]
    return start.decode("utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8", "ignore")


def _folded(given: str) -> str:
    """Words in lower case, without accents and marks, a space between them; so many that they can be kept."""
    return " ".join(_words(given[:MAX_BYTES])).encode()[:MAX_BYTES].decode("utf-8", "ignore")


def _words(given: str) -> list[str]:
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", given.casefold())).casefold()
    return [word[:MAX_WORD] for word in _WORD.findall(plain)]


# ---- finding


def found_by(query: str, document_id: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
    """Whether the document of this id has all the words: any that begin so, or exactly those that stand in quotes, side by side."""
    terms = _terms(query)
    if not terms:
        return false()
    matching = _matching_postgresql if get_engine().dialect.name == "postgresql" else _matching_sqlite
    return document_id.in_(select(DocumentText.document_id).where(matching(terms)))


def plain_words(query: str) -> list[str]:
    """The words that are looked for."""
    return [word for words, _ in _terms(query) for word in words]


def _terms(query: str) -> list[tuple[list[str], bool]]:
    """Each: words that stand side by side, and whether the last of them may go on."""
    typed = [(quoted or bare, bool(bare)) for quoted, bare in _TERM.findall(query)]
    terms = [(_words(one), goes_on) for one, goes_on in typed]
    return [one for one in terms if one[0]][:MAX_TERMS]


def _matching_sqlite(terms: list[tuple[list[str], bool]]) -> ColumnElement[bool]:
    said = " AND ".join(f'"{" ".join(words)}"{" *" if goes_on else ""}' for words, goes_on in terms)
    return text("document_texts.id IN (SELECT rowid FROM document_words WHERE document_words MATCH :said)").bindparams(said=said)  # type: ignore[return-value]


def _matching_postgresql(terms: list[tuple[list[str], bool]]) -> ColumnElement[bool]:
    said = " & ".join(f"({' <-> '.join(words)}{':*' if goes_on else ''})" for words, goes_on in terms)
    vector: ColumnElement[Any] = literal_column("document_texts.vector")
    return vector.op("@@", is_comparison=True)(func.to_tsquery(literal_column("'simple'"), said))


class has_tag(FunctionElement[bool]):
    """Whether a list of JSON has this text in it."""

    name = "has_tag"
    inherit_cache = True


@compiles(has_tag, "sqlite")
def _has_tag_sqlite(element: has_tag, compiler: Any, **options: Any) -> str:
    tags, tag = (compiler.process(clause, **options) for clause in element.clauses)
    return f"EXISTS (SELECT 1 FROM json_each({tags}) WHERE value = {tag})"  # noqa: S608 - made of compiled clauses


@compiles(has_tag, "postgresql")
def _has_tag_postgresql(element: has_tag, compiler: Any, **options: Any) -> str:
    tags, tag = (compiler.process(clause, **options) for clause in element.clauses)
    return f"jsonb_exists(CAST({tags} AS JSONB), {tag})"


def tags_of(session: Session, owner_id: int, limit: int = 100) -> list[str]:
    """The tags of a user's documents, in their order."""
    unpack = func.json_array_elements_text if get_engine().dialect.name == "postgresql" else func.json_each
    each = unpack(Document.tags).table_valued("value")
    tag = each.c.value.cast(String)
    return list(
        session.scalars(
            select(tag)
            .select_from(Document)
            .join(each, literal_column("TRUE"))
            .where(Document.owner_id == owner_id)
            .distinct()
            .order_by(tag)
            .limit(limit)
        )
    )

"""Full-text search of documents, with SQLite (FTS5) and PostgreSQL (tsvector).

Both databases get the same normalized words (case, accents and ligatures folded, separated by single spaces), so that their own
tokenizers make no difference. A query is normalized the same way, so that no query has a wrong syntax.
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

MAX_BYTES = 400_000  # of the words of one document: a tsvector holds 1 MB, and a word takes up to twice its length
MAX_WORD = 64
MAX_TERMS = 20
PLAIN = ("text/plain", "text/markdown", "text/x-rst", "text/csv", "application/json")  # indexed at the submission
_WORD = re.compile(r"[^\W_]+")
_ACCENTS = re.compile("[\u0300-\u036f]")
_TERM = re.compile(r'"([^"]*)"?|([^\s"]+)')


class DocumentText(Base):
    """The words of a document: those of its names from the submission on, those of its text when it has been read."""

    __tablename__ = "document_texts"

    id: Mapped[int] = mapped_column(primary_key=True)
    document_id: Mapped[str] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"), unique=True)
    names: Mapped[str] = mapped_column(Text)  # title, file name and address
    words: Mapped[str] = mapped_column(Text)
    is_read: Mapped[bool]  # whether `words` has the words of the text


# ---- indexing


def entry(document: Document) -> DocumentText:
    """The row to insert with a new document. A web page or PDF has no words until a worker has read it."""
    is_plain = document.media_type.partition(";")[0] in PLAIN
    content = (document.content or b"")[: MAX_BYTES * 2] if is_plain else b""
    words = _folded(content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8", "ignore"))
    return DocumentText(document_id=document.id, names=_names(document), words=words, is_read=is_plain)


def keep_names(session: Session, document: Any) -> None:
    """Update the words of a document's names, in the transaction that changes the names."""
    session.execute(update(DocumentText).where(DocumentText.document_id == document.id).values(names=_names(document)))


def keep_text(document_id: str, read: str) -> None:
    """Store the words of a text that a worker has read. Does nothing the second time: a document's text does not change."""
    missing = (DocumentText.document_id == document_id, DocumentText.is_read == false())
    with read_session() as session:
        if session.scalar(select(DocumentText.id).where(*missing)) is None:
            return
    with write_session() as session:
        session.execute(update(DocumentText).where(*missing).values(words=_folded(read), is_read=True))


def _names(document: Any) -> str:
    return _folded(" ".join(one for one in (document.title, document.filename, document.source_url) if one))


def _folded(given: str) -> str:
    """The words in lower case, without accents, separated by spaces; at most MAX_BYTES."""
    return " ".join(_words(given[:MAX_BYTES])).encode()[:MAX_BYTES].decode("utf-8", "ignore")


def _words(given: str) -> list[str]:
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", given.casefold())).casefold()
    return [word[:MAX_WORD] for word in _WORD.findall(plain)]


# ---- searching


def found_by(query: str, document_id: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
    """A condition: the document with this id has all words of the query. A word matches as a prefix, quoted words as a phrase."""
    terms = _terms(query)
    if not terms:
        return false()
    matches: ColumnElement[Any]
    if get_engine().dialect.name == "postgresql":
        vector: ColumnElement[Any] = literal_column("document_texts.vector")
        tsquery = " & ".join(f"({' <-> '.join(words)}{':*' if is_prefix else ''})" for words, is_prefix in terms)
        matches = vector.op("@@", is_comparison=True)(func.to_tsquery(literal_column("'simple'"), tsquery))
    else:
        fts5 = " AND ".join(f'"{" ".join(words)}"{" *" if is_prefix else ""}' for words, is_prefix in terms)
        rows = text("document_texts.id IN (SELECT rowid FROM document_words WHERE document_words MATCH :fts5)")
        matches = rows.bindparams(fts5=fts5)  # type: ignore[assignment]
    return document_id.in_(select(DocumentText.document_id).where(matches))


def plain_words(query: str) -> list[str]:
    """The normalized words of a query."""
    return [word for words, _ in _terms(query) for word in words]


def _terms(query: str) -> list[tuple[list[str], bool]]:
    """The terms of a query: the words of a phrase, and whether its last word is a prefix."""
    typed = [(quoted or bare, bool(bare)) for quoted, bare in _TERM.findall(query)]
    terms = [(_words(one), is_prefix) for one, is_prefix in typed]
    return [one for one in terms if one[0]][:MAX_TERMS]


class has_tag(FunctionElement[bool]):
    """Whether a JSON list of texts contains this text, as an SQL expression."""

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
    """The tags of a user's documents, sorted."""
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

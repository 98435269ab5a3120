"""the words of documents, to find them by, and which have the same content"""

import re
import unicodedata

import sqlalchemy as sa
from alembic import op

revision = '0010'
down_revision = '0009'
branch_labels = None
depends_on = None

SQLITE = (
    "CREATE VIRTUAL TABLE document_words USING fts5"
    "(names, words, content = 'document_texts', content_rowid = 'id', tokenize = 'unicode61')",
    "CREATE TRIGGER document_texts_added AFTER INSERT ON document_texts BEGIN"
    " INSERT INTO document_words (rowid, names, words) VALUES (new.id, new.names, new.words); END",
    "CREATE TRIGGER document_texts_deleted AFTER DELETE ON document_texts BEGIN"
    " INSERT INTO document_words (document_words, rowid, names, words) VALUES ('delete', old.id, old.names, old.words); END",
    "CREATE TRIGGER document_texts_changed AFTER UPDATE ON document_texts BEGIN"
    " INSERT INTO document_words (document_words, rowid, names, words) VALUES ('delete', old.id, old.names, old.words);"
    " INSERT INTO document_words (rowid, names, words) VALUES (new.id, new.names, new.words); END",
)
POSTGRESQL = (
    "ALTER TABLE document_texts ADD COLUMN vector tsvector"
    " GENERATED ALWAYS AS (to_tsvector('simple', names || ' ' || words)) STORED",
    "CREATE INDEX document_texts_by_word ON document_texts USING gin (vector) WITH (fastupdate = off)",  # or a search reads what is pending
)

# How words are folded for the search, as of this revision. Copied, not imported: a later change there must not change this migration.
MAX_BYTES = 400_000
MAX_WORD = 64
PLAIN = ('text/plain', 'text/markdown', 'text/x-rst', 'text/csv', 'application/json')
WORD = re.compile(r'[^\W_]+')
ACCENTS = re.compile('[\u0300-\u036f]')


def upgrade() -> None:
    op.create_index('documents_of_content', 'documents', ['owner_id', 'sha256', 'created_at', 'id'])
    texts = op.create_table('document_texts',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('document_id', sa.String(length=36), nullable=False),
    sa.Column('names', sa.Text(), nullable=False),
    sa.Column('words', sa.Text(), nullable=False),
    sa.Column('is_read', sa.Boolean(), nullable=False),
    sa.ForeignKeyConstraint(['document_id'], ['documents.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('document_id')
    )
    is_postgresql = op.get_bind().dialect.name == 'postgresql'
    for statement in POSTGRESQL if is_postgresql else SQLITE:
        op.execute(statement)
    _index_existing_documents(op.get_bind(), texts)


def _index_existing_documents(connection: sa.Connection, texts: sa.Table) -> None:
    """Store the words of existing documents. PDFs and the like get their names only, until a worker reads them again."""
    names = ('id', 'title', 'filename', 'source_url', 'media_type', 'content')
    documents = sa.table('documents', *(sa.column(name) for name in names))
    for document_id in connection.scalars(sa.select(documents.c.id)).all():  # one at a time: the contents together may not fit in memory
        row = connection.execute(sa.select(documents).where(documents.c.id == document_id)).one()
        is_plain = row.media_type.partition(';')[0] in PLAIN
        connection.execute(sa.insert(texts).values(
            document_id=row.id,
            names=_folded(' '.join(one for one in (row.title, row.filename, row.source_url) if one)),
            words=_folded(_decoded(bytes(row.content or b''))) if is_plain else '',
            is_read=is_plain,
        ))


def _decoded(content: bytes) -> str:
    start = content[: MAX_BYTES * 2]
    return start.decode('utf-16' if start.startswith((b'\xff\xfe', b'\xfe\xff')) else 'utf-8', 'ignore')


def _folded(given: str) -> str:
    """The words in lower case, without accents, separated by single spaces."""
    return ' '.join(_words(given[:MAX_BYTES])).encode()[:MAX_BYTES].decode('utf-8', 'ignore')


def _words(given: str) -> list[str]:
    plain = ACCENTS.sub('', unicodedata.normalize('NFKD', given.casefold())).casefold()
    return [word[:MAX_WORD] for word in WORD.findall(plain)]


def downgrade() -> None:
    if op.get_bind().dialect.name == 'sqlite':
        op.execute("DROP TABLE document_words")
    op.drop_table('document_texts')
    op.drop_index('documents_of_content', 'documents')

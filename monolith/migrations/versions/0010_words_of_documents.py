"""the words of documents, to find them by, and which have the same content"""

import sqlalchemy as sa
from alembic import op

from monolith.db.models import Document
from monolith.runner.ledger import search

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


def upgrade() -> None:
    op.create_index('documents_of_content', 'documents', ['owner_id', 'sha256', 'created_at', 'id'])
    op.create_table('document_texts',
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
    _read_what_is_there(op.get_bind())


def _read_what_is_there(connection: sa.Connection) -> None:
    """The words of the documents handed in before; of PDFs and the like their names, until a worker reads them again."""
    documents = Document.__table__
    known = ("id", "title", "filename", "source_url", "media_type", "content")
    for document_id in connection.scalars(sa.select(documents.c.id)).all():
        row = connection.execute(sa.select(*(documents.c[one] for one in known)).where(documents.c.id == document_id)).one()
        made = search.entry(Document(**row._mapping))
        values = {name: getattr(made, name) for name in ("document_id", "names", "words", "is_read")}
        connection.execute(sa.insert(search.DocumentText).values(values))


def downgrade() -> None:
    if op.get_bind().dialect.name == 'sqlite':
        op.execute("DROP TABLE document_words")
    op.drop_table('document_texts')
    op.drop_index('documents_of_content', 'documents')

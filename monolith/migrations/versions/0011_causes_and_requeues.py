"""the cause of each failure, requeues of a whole cause, and what the admin pages search by"""

import hashlib
import re
from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = '0011'
down_revision = '0010'
branch_labels = None
depends_on = None

NOT_IN_BIN = sa.text('cleaning_id IS NULL')
WITH_CAUSE = sa.text('cause IS NOT NULL AND cleaning_id IS NULL')
IN_REQUEUE = sa.text('requeue_id IS NOT NULL')
BATCH = 1000

# How a cause is computed, as of this revision. Copied, not imported: a later change there must not change this migration.
ROOT = f'{Path(__file__).resolve().parents[3]}/'  # of the repository
MAX_MESSAGE = 300
KEY_LENGTH = 16
VARYING = (
    (re.compile(r"""(?<!\w)'[^'\n]*'(?!\w)|"[^"\n]*"|“[^”\n]*”|`[^`\n]*`"""), '‘…’'),
    (re.compile(r'\b[a-z][a-z0-9+.-]*://[^\s,;)\]>]+', re.IGNORECASE), '<address>'),
    (re.compile(r'[\w.+-]+@[\w-]+\.[\w.-]*\w'), '<address>'),
    (re.compile(r'\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b|\b[\w-]+(?:\.[\w-]+)*:\d{2,5}\b'), '<address>'),
    (re.compile(r'\b(?:0x[0-9a-f]+|[0-9a-f]{8}-[0-9a-f-]{18,}|(?=[a-z]*\d)[0-9a-f]{8,})\b', re.IGNORECASE), '<id>'),
    (re.compile(r'\b[A-Za-z_-]*\d[\w-]*(?:[.,]\d+)*'), '<n>'),
)
FRAME = re.compile(r'^ *File "([^"\n]+)", line \d+, in (.+)$', re.MULTILINE)
LIBRARIES = ('/site-packages/', '/lib/python', '<frozen', '<string>')


def upgrade() -> None:
    op.add_column('jobs', sa.Column('cause', sa.String(length=16), nullable=True))
    op.add_column('jobs', sa.Column('requeue_id', sa.Integer(), nullable=True))
    op.create_table('requeues',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('cause', sa.String(length=16), nullable=False),
    sa.Column('title', sa.String(length=500), nullable=False),
    sa.Column('requeued_by', sa.String(length=254), nullable=False),
    sa.Column('per_minute', sa.Integer(), nullable=False),
    sa.Column('total', sa.Integer(), nullable=False),
    sa.Column('requeued', sa.Integer(), nullable=False),
    sa.Column('began_at', sa.Double(), nullable=False),
    sa.Column('stepped_at', sa.Double(), nullable=False),
    sa.Column('ended_at', sa.Double(), nullable=True),
    sa.Column('outcome', sa.String(length=300), nullable=True),
    sa.PrimaryKeyConstraint('id'),
    sqlite_autoincrement=True
    )
    op.create_index('one_requeue_of_cause', 'requeues', ['cause'], unique=True, sqlite_where=sa.text('ended_at IS NULL'),
                    postgresql_where=sa.text('ended_at IS NULL'))
    _find_causes()
    op.drop_index('jobs_by_status', 'jobs')
    op.create_index('jobs_by_status', 'jobs', ['status', 'type', 'ended_at', 'cleaning_id'])
    op.create_index('jobs_listed', 'jobs', ['status', 'type', 'created_at', 'id'], sqlite_where=NOT_IN_BIN, postgresql_where=NOT_IN_BIN)
    op.create_index('jobs_by_cause', 'jobs', ['cause', 'status', 'type', 'ended_at'], sqlite_where=WITH_CAUSE, postgresql_where=WITH_CAUSE)
    op.create_index('jobs_in_requeue', 'jobs', ['requeue_id', 'status'], sqlite_where=IN_REQUEUE, postgresql_where=IN_REQUEUE)


def _find_causes() -> None:
    """Of the failures that are there already."""
    connection, last = op.get_bind(), ''
    some = sa.text(
        'SELECT id, error_type, error_message, error_trace FROM jobs WHERE id > :last AND error_type IS NOT NULL ORDER BY id LIMIT :batch'
    )
    while rows := connection.execute(some, {'last': last, 'batch': BATCH}).all():
        found = [{'id': row.id, 'cause': _cause(row.error_type, row.error_message or '', row.error_trace or '')} for row in rows]
        connection.execute(sa.text('UPDATE jobs SET cause = :cause WHERE id = :id'), found)
        last = rows[-1].id


def _cause(error_type: str, message: str, trace: str) -> str:
    """The same for failures that have the same type, message and place."""
    return hashlib.sha256(f'{error_type}\n{_common(message)}\n{_place(trace)}'.encode()).hexdigest()[:KEY_LENGTH]


def _common(message: str) -> str:
    """The first line of a message, without what differs from one job to the next."""
    text = next((line.strip() for line in message[: 2 * MAX_MESSAGE].splitlines() if line.strip()), '')[:MAX_MESSAGE]
    for pattern, replacement in VARYING:
        text = pattern.sub(replacement, text)
    return text


def _place(trace: str) -> str:
    """File and function of the innermost frame of this project."""
    ours = [(path, function) for path, function in FRAME.findall(trace) if not any(one in path for one in LIBRARIES)]
    if not ours:
        return ''
    path, function = ours[-1]
    short = path.removeprefix(ROOT) if path.startswith(ROOT) else '/'.join(path.split('/')[-2:])
    return f'{short} in {function}'


def downgrade() -> None:
    for name in ('jobs_in_requeue', 'jobs_by_cause', 'jobs_listed'):
        op.drop_index(name, 'jobs')
    op.drop_index('jobs_by_status', 'jobs')
    op.create_index('jobs_by_status', 'jobs', ['status', 'type', 'ended_at'])
    op.drop_table('requeues')
    op.drop_column('jobs', 'requeue_id')
    op.drop_column('jobs', 'cause')

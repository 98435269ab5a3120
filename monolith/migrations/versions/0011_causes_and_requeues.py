"""the cause of each failure, requeues of a whole cause, and what the admin pages search by"""

import sqlalchemy as sa
from alembic import op

from monolith.runner.ledger import error_fingerprint

revision = '0011'
down_revision = '0010'
branch_labels = None
depends_on = None

NOT_IN_BIN = sa.text('cleaning_id IS NULL')
WITH_CAUSE = sa.text('cause IS NOT NULL AND cleaning_id IS NULL')
IN_REQUEUE = sa.text('requeue_id IS NOT NULL')
BATCH = 1000


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
        found = [{'id': row.id, 'cause': error_fingerprint.fingerprint_of(row.error_type, row.error_message, row.error_trace).key} for row in rows]
        connection.execute(sa.text('UPDATE jobs SET cause = :cause WHERE id = :id'), found)
        last = rows[-1].id


def downgrade() -> None:
    for name in ('jobs_in_requeue', 'jobs_by_cause', 'jobs_listed'):
        op.drop_index(name, 'jobs')
    op.drop_index('jobs_by_status', 'jobs')
    op.create_index('jobs_by_status', 'jobs', ['status', 'type', 'ended_at'])
    op.drop_table('requeues')
    op.drop_column('jobs', 'requeue_id')
    op.drop_column('jobs', 'cause')

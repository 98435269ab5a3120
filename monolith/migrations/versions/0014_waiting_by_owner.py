"""The index of the waiting jobs says whose they are: owners take turns.

Revision ID: 0014
Revises: 0013
"""

from alembic import op
import sqlalchemy as sa

revision = '0014'
down_revision = '0013'
branch_labels = None
depends_on = None

WAITING = sa.text("status = 'queued'")
COLUMNS = ['queue', 'priority', 'queued_at', 'id', 'type']


def upgrade() -> None:
    _replace([*COLUMNS, 'owner_id'])


def downgrade() -> None:
    _replace(COLUMNS)


def _replace(columns: list[str]) -> None:
    """The new index is built beside the old one: on PostgreSQL that holds up writes only, and the exchange takes a moment."""
    if op.get_bind().dialect.name != 'postgresql':
        op.drop_index('jobs_waiting', 'jobs')
        op.create_index('jobs_waiting', 'jobs', columns, sqlite_where=WAITING)
        return
    op.create_index('jobs_waiting_new', 'jobs', columns, postgresql_where=WAITING)
    op.drop_index('jobs_waiting', 'jobs')
    op.execute('ALTER INDEX jobs_waiting_new RENAME TO jobs_waiting')

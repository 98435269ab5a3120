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
    op.drop_index('jobs_waiting', 'jobs')
    op.create_index('jobs_waiting', 'jobs', [*COLUMNS, 'owner_id'], sqlite_where=WAITING, postgresql_where=WAITING)


def downgrade() -> None:
    op.drop_index('jobs_waiting', 'jobs')
    op.create_index('jobs_waiting', 'jobs', COLUMNS, sqlite_where=WAITING, postgresql_where=WAITING)

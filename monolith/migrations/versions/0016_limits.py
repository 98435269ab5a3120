"""limits on running jobs, and rates: what holds a job, and when each rate has room again"""

import sqlalchemy as sa
from alembic import op

revision = '0016'
down_revision = '0015'
branch_labels = None
depends_on = None

HELD = 'held_by IS NOT NULL'


def upgrade() -> None:
    op.add_column('jobs', sa.Column('held_by', sa.String(length=100), nullable=True))
    op.add_column('jobs', sa.Column('held_since', sa.Double(), nullable=True))
    columns = ['held_by', 'status', 'priority', 'owner_id', 'held_since']
    op.create_index('jobs_held', 'jobs', columns, sqlite_where=sa.text(HELD), postgresql_where=sa.text(HELD))
    op.create_table(
        'rates',
        sa.Column('key', sa.String(length=100), nullable=False),
        sa.Column('next_at', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('key'),
    )
    op.create_index('ix_rates_next_at', 'rates', ['next_at'])


def downgrade() -> None:
    # What is held has no time of its own, so the version before would never queue it: it is due at once.
    op.execute(f"UPDATE jobs SET run_at = queued_at, snooze_reason = NULL WHERE status = 'scheduled' AND {HELD}")
    op.drop_table('rates')
    op.drop_index('jobs_held', 'jobs')
    op.drop_column('jobs', 'held_since')
    op.drop_column('jobs', 'held_by')

"""tallies and samples, and the indexes that the clock counts and prunes by"""

import sqlalchemy as sa
from alembic import op

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None

QUEUED = sa.text("status = 'queued'")


def upgrade() -> None:
    op.create_table('tallies',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('name', sa.String(length=20), nullable=False),
    sa.Column('amount', sa.BigInteger(), nullable=False),
    sa.Column('at', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    jobs = sa.table('jobs')
    tallies = sa.table('tallies', sa.column('name'), sa.column('amount'), sa.column('at'))
    op.execute(tallies.insert().from_select(
        ['name', 'amount', 'at'], sa.select(sa.literal('accepted'), sa.func.count(), _now()).select_from(jobs)
    ))
    op.create_table('samples',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('at', sa.Double(), nullable=False),
    sa.Column('queue', sa.String(length=60), nullable=False),
    sa.Column('type', sa.String(length=60), nullable=False),
    sa.Column('queued', sa.Integer(), nullable=False),
    sa.Column('scheduled', sa.Integer(), nullable=False),
    sa.Column('started', sa.Integer(), nullable=False),
    sa.Column('finished', sa.Integer(), nullable=False),
    sa.Column('failed', sa.Integer(), nullable=False),
    sa.Column('oldest_waiting_s', sa.Double(), nullable=True),
    sa.Column('mean_wait_s', sa.Double(), nullable=True),
    sa.Column('mean_run_s', sa.Double(), nullable=True),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('ix_samples_at', 'samples', ['at'])
    op.drop_index('jobs_waiting', 'jobs')
    op.create_index('jobs_waiting', 'jobs', ['queue', 'priority', 'queued_at', 'id', 'type'], sqlite_where=QUEUED, postgresql_where=QUEUED)
    op.create_index('jobs_counted', 'jobs', ['status', 'queue', 'type'])
    if op.get_bind().dialect.name == 'postgresql':
        # Counting reads an index only, and so stays quick, for as long as the pages it speaks of are vacuumed.
        op.execute('ALTER TABLE jobs SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05)')


def _now() -> sa.ColumnElement[float]:
    """Seconds since 1970 by the database's clock."""
    is_postgresql = op.get_bind().dialect.name == 'postgresql'
    return sa.literal_column(
        'extract(epoch from clock_timestamp())::double precision' if is_postgresql else "((julianday('now') - 2440587.5) * 86400.0)"
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == 'postgresql':
        op.execute('ALTER TABLE jobs RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_insert_scale_factor)')
    op.drop_index('jobs_counted', 'jobs')
    op.drop_index('jobs_waiting', 'jobs')
    op.create_index('jobs_waiting', 'jobs', ['queue', 'priority', 'queued_at'], sqlite_where=QUEUED, postgresql_where=QUEUED)
    op.drop_index('ix_samples_at', 'samples')
    op.drop_table('samples')
    op.drop_table('tallies')

"""outgoing webhooks: endpoints, their secrets, deliveries, and how far the events of jobs have been read"""

import sqlalchemy as sa
from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None

PENDING = sa.text("state IN ('waiting', 'sending')")


def upgrade() -> None:
    _number_events_once()
    op.create_table('signing_secrets',
    sa.Column('id', sa.String(length=36), nullable=False),
    sa.Column('owner_id', sa.Integer(), nullable=False),
    sa.Column('is_shared', sa.Boolean(), nullable=False, server_default=sa.false()),
    sa.Column('sealed', sa.Text(), nullable=False),
    sa.Column('previous', sa.Text(), nullable=True),
    sa.Column('previous_until', sa.Double(), nullable=True),
    sa.ForeignKeyConstraint(['owner_id'], ['users.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('ix_signing_secrets_owner_id', 'signing_secrets', ['owner_id'])
    op.create_index('one_shared_secret', 'signing_secrets', ['owner_id'], unique=True, sqlite_where=sa.text('is_shared'), postgresql_where=sa.text('is_shared'))
    op.create_table('webhooks',
    sa.Column('id', sa.String(length=36), nullable=False),
    sa.Column('owner_id', sa.Integer(), nullable=False),
    sa.Column('job_id', sa.String(length=36), nullable=True),
    sa.Column('secret_id', sa.String(length=36), nullable=False),
    sa.Column('url', sa.String(length=2048), nullable=False),
    sa.Column('events', sa.JSON(), nullable=False),
    sa.Column('disabled_at', sa.Double(), nullable=True),
    sa.Column('disabled_reason', sa.String(length=300), nullable=True),
    sa.Column('failing_since', sa.Double(), nullable=True),
    sa.Column('listening_since', sa.Double(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['owner_id'], ['users.id'], ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['secret_id'], ['signing_secrets.id']),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('webhooks_of_owner', 'webhooks', ['owner_id', 'created_at', 'id'])
    op.create_index('ix_webhooks_job_id', 'webhooks', ['job_id'])
    op.create_index('ix_webhooks_secret_id', 'webhooks', ['secret_id'])
    op.create_table('webhook_deliveries',
    sa.Column('id', sa.String(length=36), nullable=False),
    sa.Column('webhook_id', sa.String(length=36), nullable=False),
    sa.Column('type', sa.String(length=20), nullable=False),
    sa.Column('job_id', sa.String(length=36), nullable=True),
    sa.Column('body', sa.Text(), nullable=False),
    sa.Column('state', sa.String(length=10), nullable=False),
    sa.Column('sender_id', sa.String(length=36), nullable=True),
    sa.Column('attempts', sa.Integer(), nullable=False),
    sa.Column('due_at', sa.Double(), nullable=True),
    sa.Column('response_status', sa.Integer(), nullable=True),
    sa.Column('response_text', sa.Text(), nullable=True),
    sa.Column('error', sa.String(length=300), nullable=True),
    sa.Column('duration', sa.Double(), nullable=True),
    sa.Column('attempted_at', sa.Double(), nullable=True),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['webhook_id'], ['webhooks.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('deliveries_of_webhook', 'webhook_deliveries', ['webhook_id', 'created_at', 'id'])
    op.create_index('deliveries_pending', 'webhook_deliveries', ['state', 'due_at'], sqlite_where=PENDING, postgresql_where=PENDING)
    op.create_index('deliveries_by_age', 'webhook_deliveries', ['created_at'])
    op.create_index('ix_webhook_deliveries_job_id', 'webhook_deliveries', ['job_id'])
    bookmarks = op.create_table('bookmarks',
    sa.Column('name', sa.String(length=40), nullable=False),
    sa.Column('position', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('at', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('name')
    )
    events = sa.table('job_events', sa.column('id'))
    read = sa.select(sa.literal('webhooks'), sa.func.coalesce(sa.func.max(events.c.id), 0), _now())
    op.execute(bookmarks.insert().from_select(['name', 'position', 'at'], read))


def _now() -> sa.ColumnElement[float]:
    """Seconds since 1970 by the database's clock."""
    is_postgresql = op.get_bind().dialect.name == 'postgresql'
    return sa.literal_column(
        'extract(epoch from clock_timestamp())::double precision' if is_postgresql else "((julianday('now') - 2440587.5) * 86400.0)"
    )


def _number_events_once() -> None:
    """SQLite gives the number of a deleted last row to the next one, which a reader that has passed it would never see."""
    if op.get_bind().dialect.name == 'sqlite':
        with op.batch_alter_table('job_events', recreate='always', table_kwargs={'sqlite_autoincrement': True}):
            pass


def downgrade() -> None:
    for table in ('bookmarks', 'webhook_deliveries', 'webhooks', 'signing_secrets'):
        op.drop_table(table)
    if op.get_bind().dialect.name == 'sqlite':
        with op.batch_alter_table('job_events', recreate='always', table_kwargs={'sqlite_autoincrement': False}):
            pass

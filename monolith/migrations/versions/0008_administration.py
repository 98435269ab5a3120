"""administration: pauses, the bin, alerts, schedules, the audit trail, and people who may only look"""

import sqlalchemy as sa
from alembic import op

revision = '0008'
down_revision = '0007'
branch_labels = None
depends_on = None

IN_BIN = sa.text('cleaning_id IS NOT NULL')
NOT_IN_BIN = sa.text('cleaning_id IS NULL')
OPEN = sa.text('closed_at IS NULL')


def upgrade() -> None:
    op.add_column('users', sa.Column('is_viewer', sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table('pauses',
    sa.Column('scope', sa.String(length=70), nullable=False),
    sa.Column('reason', sa.String(length=300), nullable=False),
    sa.Column('paused_by', sa.String(length=254), nullable=False),
    sa.Column('since', sa.Double(), nullable=False),
    sa.Column('until', sa.Double(), nullable=True),
    sa.PrimaryKeyConstraint('scope')
    )
    op.create_table('cleanings',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('cleaned_by', sa.String(length=254), nullable=False),
    sa.Column('criteria', sa.JSON(), nullable=False),
    sa.Column('at', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('id'),
    sqlite_autoincrement=True
    )
    op.add_column('jobs', sa.Column('cleaning_id', sa.Integer(), nullable=True))
    op.create_index('jobs_in_bin', 'jobs', ['cleaning_id'], sqlite_where=IN_BIN, postgresql_where=IN_BIN)
    op.drop_index('jobs_counted', 'jobs')
    op.create_index('jobs_counted', 'jobs', ['status', 'queue', 'type'], sqlite_where=NOT_IN_BIN, postgresql_where=NOT_IN_BIN)
    op.create_table('alerts',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('code', sa.String(length=40), nullable=False),
    sa.Column('subject', sa.String(length=130), nullable=False),
    sa.Column('severity', sa.String(length=10), nullable=False),
    sa.Column('message', sa.String(length=500), nullable=False),
    sa.Column('opened_at', sa.Double(), nullable=False),
    sa.Column('closed_at', sa.Double(), nullable=True),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('one_open_alert', 'alerts', ['code', 'subject'], unique=True, sqlite_where=OPEN, postgresql_where=OPEN)
    op.create_index('alerts_by_age', 'alerts', ['opened_at'])
    op.create_table('schedules',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('name', sa.String(length=100), nullable=False),
    sa.Column('owner_id', sa.Integer(), nullable=False),
    sa.Column('type', sa.String(length=60), nullable=False),
    sa.Column('params', sa.JSON(), nullable=False),
    sa.Column('priority', sa.String(length=10), nullable=False),
    sa.Column('cron', sa.String(length=100), nullable=False),
    sa.Column('is_on', sa.Boolean(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.Column('next_at', sa.Double(), nullable=True),
    sa.Column('last_at', sa.Double(), nullable=True),
    sa.Column('last_job_id', sa.String(length=36), nullable=True),
    sa.Column('last_error', sa.String(length=500), nullable=True),
    sa.ForeignKeyConstraint(['owner_id'], ['users.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('name')
    )
    op.create_table('audit',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('at', sa.Double(), nullable=False),
    sa.Column('actor', sa.String(length=254), nullable=False),
    sa.Column('act', sa.String(length=40), nullable=False),
    sa.Column('subject', sa.String(length=200), nullable=False),
    sa.Column('count', sa.Integer(), nullable=True),
    sa.Column('address', sa.String(length=64), nullable=True),
    sa.Column('request_id', sa.String(length=64), nullable=True),
    sa.Column('before', sa.JSON(), nullable=True),
    sa.Column('after', sa.JSON(), nullable=True),
    sa.PrimaryKeyConstraint('id'),
    sqlite_autoincrement=True
    )
    op.create_index('audit_by_age', 'audit', ['at'])
    _make_append_only()


def _make_append_only() -> None:
    """The database itself refuses to change or delete what was done."""
    if op.get_bind().dialect.name == 'postgresql':
        op.execute(
            "CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the audit trail is append-only'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_is_append_only()"
        )
        return
    for verb in ('UPDATE', 'DELETE'):
        op.execute(
            f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit "
            "BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END"
        )


def downgrade() -> None:
    op.drop_table('audit')
    if op.get_bind().dialect.name == 'postgresql':
        op.execute('DROP FUNCTION audit_is_append_only')
    op.drop_table('schedules')
    op.drop_table('alerts')
    op.drop_index('jobs_in_bin', 'jobs')
    op.drop_index('jobs_counted', 'jobs')
    op.create_index('jobs_counted', 'jobs', ['status', 'queue', 'type'])
    op.drop_column('jobs', 'cleaning_id')
    op.drop_table('cleanings')
    op.drop_table('pauses')
    op.drop_column('users', 'is_viewer')

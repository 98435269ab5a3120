"""submitting once: idempotency keys, the content of jobs, kept answers of a language model"""

import sqlalchemy as sa
from alembic import op

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None

LIVE = "status IN ('queued', 'scheduled', 'started')"
ONE_LIVE = f"is_unique AND {LIVE}"


def upgrade() -> None:
    op.create_table('idempotency_keys',
    sa.Column('owner_id', sa.Integer(), nullable=False),
    sa.Column('key', sa.String(length=255), nullable=False),
    sa.Column('fingerprint', sa.String(length=64), nullable=False),
    sa.Column('ids', sa.JSON(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['owner_id'], ['users.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('owner_id', 'key')
    )
    op.create_index('idempotency_keys_by_age', 'idempotency_keys', ['created_at'])
    op.create_table('llm_answers',
    sa.Column('key', sa.String(length=64), nullable=False),
    sa.Column('answer', sa.JSON(none_as_null=True), nullable=True),
    sa.Column('maker', sa.String(length=36), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.Column('expires_at', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('key')
    )
    op.add_column('jobs', sa.Column('content_key', sa.String(length=64), nullable=True))
    op.add_column('jobs', sa.Column('is_unique', sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index('jobs_live', 'jobs', ['owner_id'], sqlite_where=sa.text(LIVE), postgresql_where=sa.text(LIVE))
    op.create_index('one_live_job_of_content', 'jobs', ['content_key'], unique=True, sqlite_where=sa.text(ONE_LIVE), postgresql_where=sa.text(ONE_LIVE))


def downgrade() -> None:
    op.drop_index('one_live_job_of_content', 'jobs')
    op.drop_index('jobs_live', 'jobs')
    op.drop_column('jobs', 'is_unique')
    op.drop_column('jobs', 'content_key')
    op.drop_table('llm_answers')
    op.drop_table('idempotency_keys')

"""what the language model costs by user and day, and the breakers of the servers that jobs depend on"""

import sqlalchemy as sa
from alembic import op

revision = '0006'
down_revision = '0004'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('spendings',
    sa.Column('day', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('owner_id', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('input_tokens', sa.BigInteger(), nullable=False),
    sa.Column('output_tokens', sa.BigInteger(), nullable=False),
    sa.Column('nano_usd', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('day', 'owner_id')
    )
    op.create_table('breakers',
    sa.Column('name', sa.String(length=40), nullable=False),
    sa.Column('failures', sa.Integer(), nullable=False),
    sa.Column('open_until', sa.Double(), nullable=True),
    sa.Column('wait_s', sa.Double(), nullable=True),
    sa.Column('reason', sa.String(length=300), nullable=True),
    sa.Column('probe', sa.String(length=36), nullable=True),
    sa.Column('probe_until', sa.Double(), nullable=True),
    sa.PrimaryKeyConstraint('name')
    )


def downgrade() -> None:
    op.drop_table('breakers')
    op.drop_table('spendings')

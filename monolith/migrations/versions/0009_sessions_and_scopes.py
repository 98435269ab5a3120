"""sessions, tries, the scope and end of tokens, and what users want an e-mail for"""

import sqlalchemy as sa
from alembic import op

revision = '0009'
down_revision = '0008'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('sessions',
    sa.Column('id', sa.String(length=36), nullable=False),
    sa.Column('user_id', sa.Integer(), nullable=False),
    sa.Column('hash', sa.String(length=64), nullable=False),
    sa.Column('address', sa.String(length=45), nullable=False),
    sa.Column('user_agent', sa.String(length=200), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.Column('last_used_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['user_id'], ['users.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('hash')
    )
    op.create_index('ix_sessions_user_id', 'sessions', ['user_id'])
    op.create_index('ix_sessions_last_used_at', 'sessions', ['last_used_at'])
    op.create_table('tries',
    sa.Column('name', sa.String(length=64), nullable=False),
    sa.Column('count', sa.Integer(), nullable=False),
    sa.Column('began_at', sa.Double(), nullable=False),
    sa.Column('free_at', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('name')
    )
    op.create_index('ix_tries_free_at', 'tries', ['free_at'])
    op.add_column('tokens', sa.Column('scope', sa.String(length=10), server_default='admin', nullable=False))
    op.add_column('tokens', sa.Column('expires_at', sa.Double(), nullable=True))
    op.add_column('users', sa.Column('mail_failed', sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column('users', sa.Column('mail_done', sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column('users', sa.Column('mail_since', sa.Double(), nullable=True))


def downgrade() -> None:
    for name in ('mail_since', 'mail_done', 'mail_failed'):
        op.drop_column('users', name)
    op.drop_column('tokens', 'expires_at')
    op.drop_column('tokens', 'scope')
    op.drop_table('tries')
    op.drop_table('sessions')

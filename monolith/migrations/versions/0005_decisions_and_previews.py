"""what jobs decide on documents, and what could be said of a job at once"""

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('documents', sa.Column('route', sa.String(length=20), nullable=True))
    op.add_column('documents', sa.Column('decision', sa.String(length=20), nullable=True))
    op.add_column('documents', sa.Column('score', sa.Integer(), nullable=True))
    op.add_column('documents', sa.Column('is_defaulted', sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column('jobs', sa.Column('preview', sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column('jobs', 'preview')
    for name in ('is_defaulted', 'score', 'decision', 'route'):
        op.drop_column('documents', name)

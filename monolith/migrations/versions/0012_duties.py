"""what the clock says of its duties"""

import sqlalchemy as sa
from alembic import op

revision = '0012'
down_revision = '0011'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('leases', sa.Column('duties', sa.JSON(), nullable=True))
    op.add_column('leases', sa.Column('duties_at', sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column('leases', 'duties_at')
    op.drop_column('leases', 'duties')

"""the hosts of webhooks, which share the deliveries in flight

The version before inserts rows without a host while it still works; the dispatch then uses the URL. Endpoints of single jobs get none
here, because there may be many and each has one delivery.
"""

from urllib.parse import urlsplit

import sqlalchemy as sa
from alembic import op

revision = '0015'
down_revision = '0014'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('webhooks', sa.Column('host', sa.String(length=260), nullable=True))
    webhooks = sa.table('webhooks', sa.column('id'), sa.column('job_id'), sa.column('url'), sa.column('host'))
    connection = op.get_bind()
    for webhook_id, url in connection.execute(sa.select(webhooks.c.id, webhooks.c.url).where(webhooks.c.job_id.is_(None))).all():
        host = urlsplit(url).netloc.lower()[:260]
        connection.execute(sa.update(webhooks).where(webhooks.c.id == webhook_id).values(host=host))


def downgrade() -> None:
    op.drop_column('webhooks', 'host')

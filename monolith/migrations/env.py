"""Alembic's entry: migrate the application's own engine, in one transaction."""

from alembic import context

from monolith.db.engine import get_engine
from monolith.db.models import Base

with get_engine().connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()

"""Alembic's entry: migrate the application's own engine, in one transaction."""

from alembic import context

from monolith.database import engine
from monolith.models import Base

with engine().connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()

"""Alembic's entry: migrates the application's database in one transaction. The migrations themselves import nothing of the application."""

from alembic import context

from monolith.db.engine import get_engine
from monolith.db.postgresql_session import wait_for_locks

with get_engine().connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        wait_for_locks(connection, 0)
        context.run_migrations()

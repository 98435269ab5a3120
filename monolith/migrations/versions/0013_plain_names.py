"""plain names: trash, error groups, snoozed jobs, login attempts and periodic tasks

During a deploy this runs while processes of the version before still work, for some seconds:

- Its workers go on. They write the old columns of `jobs` when a job ends, fails or is snoozed, so these columns stay for one
  release, read by processes of that version only; a trigger for each copies what is written there. Statements that name only new columns do
  not fire the triggers. The next release drops both: see `OLD_COLUMNS` and `_drop_old_columns`.
- Its web processes fail with a database error where they sign people in or show the trash, and are replaced.
- Its clock fails when it reports its periodic tasks, empties the trash or retries an error group; it tries again each time.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = '0013'
down_revision = '0012'
branch_labels = None
depends_on = None

TABLES = {'cleanings': 'trash', 'tries': 'login_attempts'}
COLUMNS = (  # table as it is called now, old name, new name
    ('jobs', 'parked_reason', 'snooze_reason'),
    ('jobs', 'cause', 'error_group'),
    ('jobs', 'cleaning_id', 'trash_id'),
    ('requeues', 'cause', 'error_group'),
    ('trash', 'cleaned_by', 'trashed_by'),
    ('login_attempts', 'free_at', 'retry_at'),
    ('leases', 'duties', 'periodic_tasks'),
    ('leases', 'duties_at', 'periodic_tasks_at'),
)
OLD_COLUMNS: dict[str, tuple[Any, str]] = {  # of `jobs`, for the version before: the type, and the column that has the value now
    'parked_reason': (sa.String(length=300), 'snooze_reason'),
    'cause': (sa.String(length=16), 'error_group'),
    'cleaning_id': (sa.Integer(), 'trash_id'),
}
INDEXES: tuple[tuple[str, str, str, Sequence[str], str | None, bool], ...] = (  # table, old name, new name, and for SQLite, which cannot rename an index: columns (as they are called now), condition
    ('jobs', 'jobs_in_bin', 'jobs_in_trash', ('trash_id',), 'trash_id IS NOT NULL', False),
    ('jobs', 'jobs_by_cause', 'jobs_by_error_group', ('error_group', 'status', 'type', 'ended_at'),
     'error_group IS NOT NULL AND trash_id IS NULL', False),
    ('requeues', 'one_requeue_of_cause', 'one_requeue_of_error_group', ('error_group',), 'ended_at IS NULL', True),
    ('login_attempts', 'ix_tries_free_at', 'ix_login_attempts_retry_at', ('retry_at',), None, False),
)
# What PostgreSQL names after a table.
CONSTRAINTS = (('trash', 'cleanings_pkey', 'trash_pkey'), ('login_attempts', 'tries_pkey', 'login_attempts_pkey'))
SEQUENCES = (('cleanings_id_seq', 'trash_id_seq'),)


def upgrade() -> None:
    for old, new in TABLES.items():
        op.rename_table(old, new)
    for table, old, new in COLUMNS:
        _rename_column(table, old, new)
    for table, old, new, columns, condition, is_unique in INDEXES:
        _rename_index(table, old, new, list(columns), condition, is_unique)
    if _is_postgresql():
        for table, old, new in CONSTRAINTS:
            op.execute(f'ALTER TABLE {table} RENAME CONSTRAINT {old} TO {new}')
        for old, new in SEQUENCES:
            op.execute(f'ALTER SEQUENCE {old} RENAME TO {new}')
    _keep_old_columns()


def downgrade() -> None:
    _drop_old_columns()
    if _is_postgresql():
        for old, new in SEQUENCES:
            op.execute(f'ALTER SEQUENCE {new} RENAME TO {old}')
        for table, old, new in CONSTRAINTS:
            op.execute(f'ALTER TABLE {table} RENAME CONSTRAINT {new} TO {old}')
    for table, old, new in COLUMNS:
        _rename_column(table, new, old)
    before = {(table, new): old for table, old, new in COLUMNS}
    for table, old, new, columns, condition, is_unique in INDEXES:
        for (_, name), former in before.items():
            condition = condition and condition.replace(name, former)
        _rename_index(table, new, old, [before.get((table, one), one) for one in columns], condition, is_unique)
    for old, new in TABLES.items():
        op.rename_table(new, old)


def _is_postgresql() -> bool:
    return op.get_bind().dialect.name == 'postgresql'


def _rename_column(table: str, old: str, new: str) -> None:
    # Never by a batch on SQLite: dropping the old table would delete, by cascade, the rows that refer to it.
    op.execute(f'ALTER TABLE {table} RENAME COLUMN {old} TO {new}')


def _rename_index(table: str, old: str, new: str, columns: Sequence[str], condition: str | None, is_unique: bool) -> None:
    if _is_postgresql():
        op.execute(f'ALTER INDEX {old} RENAME TO {new}')
        return
    op.drop_index(old, table)
    op.create_index(new, table, list(columns), unique=is_unique, sqlite_where=condition and sa.text(condition))


def _keep_old_columns() -> None:
    """A worker of the version before ends its job with a statement that sets them. On PostgreSQL and SQLite alike, the trigger fires
    for statements that name its column only."""
    for name, (column_type, _) in OLD_COLUMNS.items():
        op.add_column('jobs', sa.Column(name, column_type, nullable=True))
    op.execute('UPDATE jobs SET cleaning_id = trash_id WHERE trash_id IS NOT NULL')  # what is in the trash stays out of its lists
    for name, (_, now) in OLD_COLUMNS.items():
        body = f'UPDATE jobs SET {now} = new.{name} WHERE id = new.id;'
        if _is_postgresql():
            op.execute(f'CREATE FUNCTION jobs_old_{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NULL; END $$')
            op.execute(
                f'CREATE TRIGGER jobs_old_{name} AFTER UPDATE OF {name} ON jobs FOR EACH ROW EXECUTE FUNCTION jobs_old_{name}()'
            )
        else:
            op.execute(f'CREATE TRIGGER jobs_old_{name} AFTER UPDATE OF {name} ON jobs BEGIN {body} END')


def _drop_old_columns() -> None:
    for name in OLD_COLUMNS:
        if _is_postgresql():
            op.execute(f'DROP TRIGGER jobs_old_{name} ON jobs')
            op.execute(f'DROP FUNCTION jobs_old_{name}()')
        else:
            op.execute(f'DROP TRIGGER jobs_old_{name}')
        op.drop_column('jobs', name)

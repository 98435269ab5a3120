"""Migrations stand alone, and lose nothing: each earlier revision is filled with rows and upgraded, on SQLite and PostgreSQL."""

from __future__ import annotations

import ast
import hashlib
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from monolith.config import settings
from monolith.db import engine
from monolith.db.models import Base, Document
from monolith.runner.ledger import search
from tests.support.databases import drop_database, new_database
from tests.support.processes import ROOT

SCRIPTS = ScriptDirectory.from_config(engine.migrations())
REVISIONS = [script.revision for script in reversed(list(SCRIPTS.walk_revisions()))]
FILES = [Path(script.path) for script in SCRIPTS.walk_revisions()]
LIBRARIES = {"alembic", "sqlalchemy", *sys.stdlib_module_names} - {"importlib", "runpy", "pkgutil"}
MODELS = [path for path in (ROOT / "monolith").rglob("*.py") if "__tablename__ =" in path.read_text()]

# What the database has beside the models: the full-text index, in each database's own way.
SQL_ALONE = re.compile(r"document_words(_\w+)?|document_texts_by_word|vector|alembic_version")
# Columns of `jobs` that 0013 keeps for one release, for workers of the version before.
OLD_COLUMNS = {"parked_reason": "snooze_reason", "cause": "error_group", "cleaning_id": "trash_id"}
# What a later revision calls otherwise: by revision, tables and columns.
RENAMED_TABLES = {"0013": {"cleanings": "trash", "tries": "login_attempts"}}
RENAMED_COLUMNS = {
    "0013": {
        "jobs": OLD_COLUMNS,
        "requeues": {"cause": "error_group"},
        "trash": {"cleaned_by": "trashed_by"},
        "login_attempts": {"free_at": "retry_at"},
        "leases": {"duties": "periodic_tasks", "duties_at": "periodic_tasks_at"},
    }
}

Row = dict[str, Any]
Rows = dict[str, list[Row]]


# ---- migrations stand alone


def live_code(source: str) -> list[str]:
    """The names under which a migration reaches code that may change later: all but Alembic, SQLAlchemy and the standard library."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append("." * node.level + (node.module or ""))
        elif isinstance(node, ast.Name) and node.id in ("__import__", "exec", "eval"):
            found.append(node.id)
        elif isinstance(node, ast.Attribute) and node.attr in ("modules", "import_module"):
            found.append(node.attr)
    return [name for name in found if name.partition(".")[0] not in LIBRARIES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_migration_imports_nothing_of_the_application(path: Path) -> None:
    found = live_code(path.read_text())
    assert not found, f"{path.relative_to(ROOT)} uses {', '.join(found)}: copy what it needs into the migration, which must never change"


@pytest.mark.parametrize(
    "source",
    [
        "import monolith",
        "import monolith.db.models as m",
        "from monolith.runner import causes",
        "from jobs.tools import words",
        "from . import words",
        "def upgrade():\n    from monolith.db.models import Document",
        "import importlib\nimportlib.import_module('monolith.db.models')",
        "from importlib import import_module",
        "__import__('monolith.db.models')",
        "import sys\nsys.modules['monolith.db.models']",
        "exec('import monolith')",
    ],
)
def test_each_way_to_reach_live_code_is_found(source: str) -> None:
    assert live_code(source)


# ---- each earlier revision is upgraded with rows in it


class Installation:
    """One database, as the application itself opens and migrates it."""

    @property
    def is_postgresql(self) -> bool:
        return engine.get_engine().dialect.name == "postgresql"

    def upgrade(self, revision: str = "head") -> None:
        self._run(lambda current, _: SCRIPTS._upgrade_revs(revision, current))

    def downgrade(self, revision: str) -> None:
        self._run(lambda current, _: SCRIPTS._downgrade_revs(revision, current))

    def _run(self, steps: Callable[[Any, Any], Any]) -> None:
        """What Alembic's commands do, without loading every migration anew."""
        with EnvironmentContext(engine.migrations(), SCRIPTS, fn=steps):
            SCRIPTS.run_env()

    def tables(self) -> list[sa.Table]:
        """As they are now, each after those that it refers to."""
        reflected = sa.MetaData()
        with engine.get_engine().connect() as connection:
            reflected.reflect(connection, only=lambda name, _: not SQL_ALONE.fullmatch(name))
        return reflected.sorted_tables

    def rows(self) -> Rows:
        with engine.get_engine().connect() as connection:
            names = [name for name in sa.inspect(connection).get_table_names() if not SQL_ALONE.fullmatch(name)]
            return {name: [dict(row) for row in connection.execute(sa.text(f"SELECT * FROM {name}")).mappings()] for name in names}

    def scalar(self, statement: str) -> Any:
        with engine.get_engine().connect() as connection:
            return connection.scalar(sa.text(statement))

    def schema(self) -> set[tuple[Any, ...]]:
        """Everything the database has, in its own words."""
        with engine.get_engine().connect() as connection:
            statements = POSTGRESQL_SCHEMA if self.is_postgresql else SQLITE_SCHEMA
            return {tuple(_plain(value) for value in row) for statement in statements for row in connection.execute(sa.text(statement))}


SQLITE_SCHEMA = ("SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name <> 'sqlite_sequence'",)
POSTGRESQL_SCHEMA = (
    "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable, column_default, generation_expression"
    " FROM information_schema.columns WHERE table_schema = 'public'",
    "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
    "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
    "SELECT relname, reloptions::text FROM pg_class WHERE relnamespace = 'public'::regnamespace",
    "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
)


def _plain(value: Any) -> Any:
    """SQL without what makes no difference: where lines end, and quotes around names that need none."""
    return re.sub(r'"(\w+)"', r"\1", " ".join(value.split())) if isinstance(value, str) else value


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def installation(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Installation]:
    """An empty database."""
    with _new(kind, request, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def newest_schema(kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> set[tuple[Any, ...]]:
    """What a new database has."""
    with _new(kind, request, tmp_path_factory.mktemp("newest")) as made:
        made.upgrade()
        return made.schema()


@contextmanager
def _new(kind: str, request: pytest.FixtureRequest, home: Path) -> Iterator[Installation]:
    is_postgresql = kind == "postgresql"
    url = new_database(request.getfixturevalue("postgresql_server")) if is_postgresql else f"sqlite:///{home}/intray.sqlite3"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTRAY_HOME", str(home))
        patch.setenv("DATABASE_URL", url)
        _forget()
        yield Installation()
        _forget()
    if is_postgresql:
        drop_database(url)


def _forget() -> None:
    if engine.get_engine.cache_info().currsize:
        engine.get_engine().dispose()
    for cached in (settings, engine.get_engine):
        cached.cache_clear()


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_an_upgrade_keeps_every_row_and_derives_what_is_new(
    newest_schema: set[tuple[Any, ...]], installation: Installation, revision: str
) -> None:
    installation.upgrade(revision)
    fill(installation.tables())
    add_documents()
    add_failures(installation)
    before = installation.rows()

    installation.upgrade()

    assert_kept(before, installation.rows(), revision)
    assert_counted(installation, before, revision)
    if revision < "0010":
        assert_documents_are_found()
    if revision < "0011":
        assert_failures_are_grouped(installation)
    assert not installation.schema() ^ newest_schema
    assert_audit_is_append_only(installation)


def test_a_new_database_is_like_the_models(installation: Installation) -> None:
    installation.upgrade()
    assert_like_the_models(installation)
    assert_audit_is_append_only(installation)


def test_what_a_worker_of_the_version_before_writes_is_in_the_new_columns(installation: Installation) -> None:
    installation.upgrade("0012")
    fill(installation.tables())
    add_failures(installation)
    with engine.get_engine().begin() as connection:
        connection.execute(sa.text("UPDATE jobs SET cleaning_id = 7 WHERE id = 'j-bare'"))
    installation.upgrade("0013")
    with engine.get_engine().begin() as connection:
        before = connection.execute(sa.text("SELECT * FROM jobs WHERE id = 'j-other'")).mappings().one()
        connection.execute(sa.text("UPDATE jobs SET status = 'failed', parked_reason = NULL, cause = 'abc' WHERE id = 'j-other'"))
        connection.execute(sa.text("UPDATE jobs SET status = 'scheduled', parked_reason = 'later' WHERE id = 'j-fine'"))
        connection.execute(sa.text("UPDATE jobs SET error_group = 'new' WHERE id = 'j-timeout-1'"))
    rows = {row["id"]: row for row in installation.rows()["jobs"]}
    assert rows["j-other"] == {**before, "cause": "abc", "error_group": "abc"}
    assert (rows["j-fine"]["snooze_reason"], rows["j-fine"]["error_group"]) == ("later", None)
    assert (rows["j-timeout-1"]["error_group"], rows["j-timeout-1"]["cause"]) == ("new", None)
    assert (rows["j-bare"]["trash_id"], rows["j-bare"]["cleaning_id"]) == (7, 7)  # an old list leaves out what is in the trash


def test_each_step_down_leads_to_the_same_tables_as_the_way_up(installation: Installation) -> None:
    schemas = {}
    for revision in REVISIONS:
        installation.upgrade(revision)
        schemas[revision] = installation.schema()
    fill(installation.tables())
    for revision in reversed(REVISIONS[:-1]):
        before = installation.rows()
        installation.downgrade(revision)
        assert not installation.schema() ^ schemas[revision], f"after the downgrade to {revision}"
        after = installation.rows()
        kept = set(before) & set(after)
        assert {name: len(after[name]) for name in kept} == {name: len(before[name]) for name in kept}, (
            f"lost by the downgrade to {revision}"
        )
    installation.upgrade()
    assert not installation.schema() ^ schemas[REVISIONS[-1]]


# ---- rows as they may be there

# What a column of this name holds, where any text will not do.
PLAUSIBLE: dict[str, Callable[[int], Any]] = {
    "status": lambda number: ("finished", "failed")[number % 2],
    "state": lambda number: "delivered",
    "media_type": lambda number: "text/plain",
    "content": lambda number: f"What document {number} says".encode(),
    "tags": lambda number: ["news", f"tag{number}"],
    "events": lambda number: ["job.finished"],
    "ids": lambda number: {"documents": [f"d{number}"], "jobs": [f"j{number}"]},
    "scope": lambda number: ("read", "submit", "admin")[number % 3],
    "cron": lambda number: "0 6 * * 1",
    "error_type": lambda number: None,  # see `add_failures`
}


def fill(tables: list[sa.Table]) -> None:
    """Two rows for each table: one with a value in every column, and one in those that must have one."""
    with engine.get_engine().begin() as connection:
        for table in tables:
            for number, is_full in ((1, True), (2, False)):
                connection.execute(table.insert().values(_row(connection, table, number, is_full)))


def _row(connection: sa.Connection, table: sa.Table, number: int, is_full: bool) -> Row:
    row: Row = {}
    for column in table.columns:
        is_needed = not column.nullable and column.server_default is None
        if column.computed or column is table.autoincrement_column and column.type.python_type is int and not column.foreign_keys:
            continue  # the database gives it
        if not (is_full or is_needed):
            continue
        row[column.name] = _referred(connection, column, number) if column.foreign_keys else _value(column, number)
    return row


def _referred(connection: sa.Connection, column: sa.Column[Any], number: int) -> Any:
    target = next(iter(column.foreign_keys)).column
    return connection.scalar(sa.select(target).order_by(target).offset(number - 1).limit(1))


def _value(column: sa.Column[Any], number: int) -> Any:
    if column.name in PLAUSIBLE:
        return PLAUSIBLE[column.name](number)
    match column.type:
        case sa.JSON():
            return {"number": number, "words": ["ä", None, True]}
        case sa.Boolean():
            return number % 2 == 1
        case sa.Integer():
            return 40 + number
        case sa.Float():
            return 1_700_000_000.5 + number
        case sa.LargeBinary():
            return f"\0binary {number}".encode()
        case sa.String(length=length):
            return f"{number}é {column.table.name}.{column.name}"[:length]
    raise AssertionError(f"{column} has a type that no row is made for: {column.type!r}")


DOCUMENTS: dict[str, tuple[Row, Row]] = {  # by id: what was submitted, and what the search gets of it
    "d-accents": (
        {"title": "Über Cafés", "media_type": "text/markdown; charset=utf-8", "content": "Die Straße\nim *Zürich*".encode()},
        {"names": "uber cafes", "words": "die strasse im zurich", "is_read": True},
    ),
    "d-utf-16": (
        {"title": "Wide", "filename": "wide_file.txt", "media_type": "text/plain", "content": "Größe 10".encode("utf-16")},
        {"names": "wide wide file txt", "words": "grosse 10", "is_read": True},
    ),
    "d-pdf": (
        {"title": "A report", "filename": "ﬁnal.pdf", "media_type": "application/pdf", "content": b"%PDF-1.7 \0"},
        {"names": "a report final pdf", "words": "", "is_read": False},
    ),
    "d-page": (
        {"title": "Page", "source_url": "https://example.org/News", "media_type": "text/html", "content": None},
        {"names": "page https example org news", "words": "", "is_read": False},
    ),
    "d-empty": (
        {"title": "Nothing", "media_type": "application/json", "content": None},
        {"names": "nothing", "words": "", "is_read": True},
    ),
}
FOUND = {"zur": "d-accents", '"die straße"': "d-accents", "GROSSE": "d-utf-16", "final": "d-pdf", "example news": "d-page"}


def add_documents() -> None:
    submitted = {"owner_id": 1, "kind": "text", "tags": "[]", "size": 1, "created_at": 1.0, "filename": None, "source_url": None}
    _insert("documents", [{"id": document_id, **submitted, **given} for document_id, (given, _) in DOCUMENTS.items()])


TRACE = 'Traceback:\n  File "{root}/jobs/analyze.py", line {line}, in run\n  File "/usr/lib/python3/ssl.py", line 9, in read\n'
FAILURES: dict[str, Row] = {
    "j-timeout-1": {"error_type": "Timeout", "error_message": "No answer from https://a.org/1 within 10 s", "error_trace": TRACE},
    "j-timeout-2": {"error_type": "Timeout", "error_message": "No answer from https://b.org within 3.5 s\nmore", "error_trace": TRACE},
    "j-other": {"error_type": "Refused", "error_message": "No answer from https://a.org/1 within 10 s", "error_trace": TRACE},
    "j-bare": {"error_type": "Lost", "error_message": None, "error_trace": None},
    "j-fine": {"error_type": None, "error_message": None, "error_trace": None},
}


def add_failures(installation: Installation) -> None:
    """Failed jobs, each with an event: one in the bin, where there is one."""
    ledger = {"owner_id": 1, "type": "analyze", "queue": "default", "priority": "normal", "params": "{}", "created_at": 1.0}
    counts = {
        "attempt": 1,
        "claims": 1,
        "max_attempts": 3,
        "interruptions": 0,
        "crashes": 0,
        "input_tokens": 0,
        "output_tokens": 0,
        "usd": 0,
    }
    jobs = []
    for line, (job_id, failure) in enumerate(FAILURES.items()):
        status = "failed" if failure["error_type"] else "finished"
        trace = failure["error_trace"] and failure["error_trace"].format(root=ROOT, line=line)
        jobs.append({"id": job_id, **ledger, **counts, "status": status, **failure, "error_trace": trace})
    _insert("jobs", jobs)
    _insert("job_events", [{"job_id": one["id"], "at": 2.0, "name": one["status"], "attempt": 1} for one in jobs])


def _insert(name: str, rows: list[Row]) -> None:
    table = sa.table(name, *(sa.column(column) for column in rows[0]))
    with engine.get_engine().begin() as connection:
        connection.execute(table.insert(), rows)


# ---- what must be so afterwards


def assert_kept(before: Rows, after: Rows, revision: str) -> None:
    """Each row is still there, with each of its values, by whatever names."""
    for table, rows in before.items():
        name = _newest_name(table, revision, RENAMED_TABLES)
        for row in rows:
            expected = {
                _newest_name(column, revision, {at: of.get(name, {}) for at, of in RENAMED_COLUMNS.items()}): row[column] for column in row
            }
            assert any(all(one[column] == value for column, value in expected.items()) for one in after[name]), f"lost from {table}: {row}"


def _newest_name(name: str, revision: str, renamed: dict[str, dict[str, str]]) -> str:
    for at in sorted(renamed):
        if revision < at:
            name = renamed[at].get(name, name)
    return name


def assert_counted(installation: Installation, before: Rows, revision: str) -> None:
    """What is counted and read from then on begins with what was there."""
    if revision < "0003":
        assert installation.scalar("SELECT sum(amount) FROM tallies WHERE name = 'accepted'") == len(before["jobs"])
    if revision < "0004":
        assert installation.scalar("SELECT position FROM bookmarks") == max(row["id"] for row in before["job_events"])
        _insert("job_events", [{"job_id": "j-fine", "at": 3.0, "name": "finished", "attempt": 1}])
        newest = installation.scalar("SELECT max(id) FROM job_events")
        with engine.get_engine().begin() as connection:
            connection.execute(sa.text("DELETE FROM job_events WHERE id = :id"), {"id": newest})
        _insert("job_events", [{"job_id": "j-fine", "at": 3.0, "name": "finished", "attempt": 1}])
        assert installation.scalar("SELECT max(id) FROM job_events") > newest  # a number is given once


def assert_documents_are_found() -> None:
    with engine.read_session() as session:
        rows = session.execute(sa.text("SELECT document_id, names, words, is_read FROM document_texts")).mappings()
        texts = {row["document_id"]: {name: row[name] for name in ("names", "words", "is_read")} for row in rows}
        assert len(texts) == session.scalar(sa.select(sa.func.count()).select_from(Document))
        assert {one: texts[one] for one in DOCUMENTS} == {one: expected for one, (_, expected) in DOCUMENTS.items()}
        for query, document_id in FOUND.items():
            assert list(session.scalars(sa.select(Document.id).where(search.found_by(query, Document.id)))) == [document_id], query


def assert_failures_are_grouped(installation: Installation) -> None:
    groups = {row["id"]: row["error_group"] for row in installation.rows()["jobs"]}
    timeout = "Timeout\nNo answer from <address> within <n> s\njobs/analyze.py in run"
    assert groups["j-timeout-1"] == groups["j-timeout-2"] == hashlib.sha256(timeout.encode()).hexdigest()[:16]
    assert groups["j-bare"] == hashlib.sha256(b"Lost\n\n").hexdigest()[:16]
    assert groups["j-fine"] is None
    assert len({groups[one] for one in FAILURES}) == 4


def assert_audit_is_append_only(installation: Installation) -> None:
    _insert("audit", [{"at": 1.0, "actor": "a", "act": "pause", "subject": "s"}])
    for statement in ("UPDATE audit SET actor = 'b'", "DELETE FROM audit"):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.get_engine().begin() as connection:
            connection.execute(sa.text(statement))


def assert_like_the_models(installation: Installation) -> None:
    """No difference between the database and the models, nor between their indexes, with the conditions of partial ones."""
    metadata = _models()
    options = {
        "compare_type": True,
        "compare_server_default": True,
        "include_name": lambda name, kind, parents: not SQL_ALONE.fullmatch(name or "") and not _is_old_column(name, kind, parents),
    }
    with engine.get_engine().connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
    assert _indexes(installation) == _indexes_of_models(installation, metadata)


def _indexes(installation: Installation) -> set[str]:
    with engine.get_engine().connect() as connection:
        return _definitions(connection, installation)


def _indexes_of_models(installation: Installation, metadata: sa.MetaData) -> set[str]:
    """What the models would make, in a schema or a database of its own."""
    if not installation.is_postgresql:
        with sa.create_engine("sqlite://").connect() as connection:
            metadata.create_all(connection)
            return _definitions(connection, installation)
    with engine.get_engine().connect() as connection, connection.begin() as transaction:
        connection.execute(sa.text("CREATE SCHEMA models"))
        connection.execute(sa.text("SET LOCAL search_path TO models"))
        metadata.create_all(connection)
        made = _definitions(connection, installation)
        transaction.rollback()
    return made


def _definitions(connection: sa.Connection, installation: Installation) -> set[str]:
    if installation.is_postgresql:
        found = connection.execute(sa.text("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema"))
    else:
        found = connection.execute(sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"))
    return {re.sub(r"\b(public|models)\.", "", _plain(sql)) for name, sql in found if not re.match(SQL_ALONE.pattern, name)}


def _is_old_column(name: str | None, kind: str, parents: Any) -> bool:
    return kind == "column" and parents["table_name"] == "jobs" and name in OLD_COLUMNS


def _models() -> sa.MetaData:
    for path in MODELS:
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return Base.metadata

#!/usr/bin/env python3
"""Intray's command line. `manage.py COMMAND --help` says more of each."""

from __future__ import annotations

import importlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from monolith import logs
from monolith.benchmarks.commands import bench
from monolith.errors import BadSetting, Problem

if TYPE_CHECKING:
    from monolith.db.models import User


class Commands(click.Group):
    """Commands whose expected troubles are one line on standard error and exit code 1, never a traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except (BadSetting, Problem) as error:
            raise click.ClickException(str(error)) from error
        except Exception as error:
            line = _outside_trouble(error)
            if line is None:
                raise
            raise click.ClickException(logs.mask(line)) from error


def _outside_trouble(error: Exception) -> str | None:
    """One line when the database, Redis or the disk failed us; None when the fault is ours."""
    from redis import RedisError
    from sqlalchemy.exc import DBAPIError

    if isinstance(error, DBAPIError):
        said = str(error.orig).strip().splitlines()[0]
        return f"The database said: {said}. Run `manage.py db upgrade` if its tables are old; `manage.py doctor` says more."
    if isinstance(error, RedisError):
        return f"Redis said: {error}. `manage.py doctor` says what to mend."
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be used: {error.strerror}. Mend the setting that names it, or its rights."
    return None


@click.group(cls=Commands, help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    pass


@main.command()
def run() -> None:
    """Run everything on this machine until Ctrl-C: Redis if need be, web, workers and clock."""
    from monolith.server import run_all

    logs.configure("run")
    run_all.run(click.echo)


@main.command()
def web() -> None:
    """Answer HTTP on HOST:PORT."""
    logs.configure("web")  # before gunicorn is imported: it reads settings of its own as it is
    from monolith.linux import processes
    from monolith.server.gunicorn_worker import serve

    processes.forks_die_with_us()
    processes.keep_few_heaps()
    serve()


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def worker(arguments: tuple[str, ...]) -> None:
    """Run one `rq worker` on every queue. ARGUMENTS are RQ's own, as --burst or --name."""
    from monolith.runner.worker import command
    from monolith.server import run_all

    logs.configure("worker")
    run_all.require_redis()
    command.work(arguments)


@main.command()
def clock() -> None:
    """Move what is due and repair what fell between, until SIGTERM."""
    from monolith.runner.scheduler import clock
    from monolith.server.child_processes import StopSignal

    logs.configure("clock")
    stop = StopSignal()
    clock.run(stop.is_asked, stop.wait)


@main.group()
def db() -> None:
    """The database."""


@db.command()
def upgrade() -> None:
    """Bring the tables to the newest version."""
    from monolith.db import engine

    logs.configure("db")
    engine.upgrade()
    click.echo("The tables are up to date.")


@main.group()
def user() -> None:
    """The people who may sign in."""


@user.command("create")
@click.option("--email", required=True)
@click.option("--password", required=True)
@click.option("--admin", "role", flag_value="admin", help="May see and steer everything.")
@click.option("--viewer", "role", flag_value="viewer", help="May see everything and change nothing.")
def create_user(email: str, password: str, role: str | None) -> None:
    """Make a user."""
    from monolith.accounts import users
    from monolith.runner.ledger import audit

    made = users.create_user(email, password, audit.at_command_line(), is_admin=role == "admin", is_viewer=role == "viewer")
    click.echo(f"Made the {role or 'user'} {made.email}")


@user.command("password")
@click.option("--email", required=True)
@click.option("--password", required=True)
def set_password(email: str, password: str) -> None:
    """Set a new password for somebody who has forgotten theirs, and end all their sessions."""
    from monolith.accounts import users
    from monolith.runner.ledger import audit

    users.reset_password(_user(email), password, audit.at_command_line())
    click.echo(f"The password of {email} was changed, and all sessions were ended.")


def _user(email: str) -> User:
    from monolith.accounts import users

    found = users.find_user(email)
    if found is None:
        raise click.ClickException(f"There is no user {email}. Make one with `manage.py user create`.")
    return found


@main.group()
def token() -> None:
    """Tokens for the API."""


@token.command("create")
@click.option("--email", required=True, help="Whose token it is.")
@click.option("--name", default="command line", show_default=True, help="What its owner knows it by.")
@click.option("--scope", default="admin", show_default=True, help="What it may do: read, submit, or admin: all that its owner may.")
@click.option("--days", type=click.FloatRange(0), help="When it runs out; never, when not given.")
def create_token(email: str, name: str, scope: str, days: float | None) -> None:
    """Make an API token; it is shown this once, as the last word."""
    from monolith.accounts import tokens
    from monolith.runner.ledger import audit

    owner = _user(email)
    _, secret = tokens.create_token(owner.id, name, scope, days, audit.at_command_line())
    click.echo(f"The token of {owner.email}, shown this once: {secret}")


@main.command()
@click.option("--release", is_flag=True, help="Only what must hold before the processes of a new version start.")
def doctor(release: bool) -> None:
    """Check this deployment; exit 1 on trouble. Each finding says the mend."""
    from monolith.server import doctor

    with suppress(BadSetting):  # which is among the findings
        logs.configure("doctor")
    findings = []
    for finding in doctor.examine(release):
        click.echo(str(finding))
        findings.append(finding)
    if any(finding.is_trouble for finding in findings):
        raise SystemExit(1)


@main.group()
def ai() -> None:
    """The language model."""


@ai.command("test")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def test_ai(as_json: bool) -> None:
    """Ask the language model one tiny question, which is paid for; exit 1 when that fails, or when none is set up."""
    from monolith.runner.llm import connection_test

    logs.configure("ai")
    found = connection_test.try_out()
    click.echo(json.dumps(found) if as_json else f"{found['message']} ({found['duration_ms']} ms, {found['usd']} USD)")
    if not found["ok"]:
        raise SystemExit(1)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def ledger(as_json: bool) -> None:
    """Show where every job that was ever accepted is; exit 1 when one has vanished."""
    from monolith.runner.ledger import balance

    accounts = balance.balance()
    click.echo(accounts.json() if as_json else str(accounts))
    if accounts.imbalance:
        raise SystemExit(1)


main.add_command(bench)


@main.command()
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--seed", default=7, show_default=True, help="Decides the faults, their order and the mix of jobs.")
@click.option("--jobs", type=int, help="How many are submitted over the time; 5 a second when not given.")
@click.option("--database", type=click.Choice(["sqlite", "postgresql"]), default="sqlite", show_default=True)
def chaos(minutes: float, seed: int, jobs: int | None, database: str) -> None:
    """Kill, freeze and empty things under load in an installation of its own; exit 1 when a job was lost, stuck or done twice."""
    try:
        trial = importlib.import_module("tests.support.chaos.trial")
    except ImportError as error:
        raise click.ClickException(f"{error.name} is missing: chaos is for developers. Run `make test` in a checkout first.") from error
    report = trial.run(trial.Plan(database, seed, minutes * 60, jobs or int(minutes * 60 * 5)), click.echo)
    click.echo(str(report))
    if report.wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

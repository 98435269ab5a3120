#!/usr/bin/env python3
"""Intray's command line. Run `manage.py COMMAND --help` for details of a command."""

from __future__ import annotations

import importlib
import io
import json
import sys
from contextlib import suppress
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

import click

from monolith.errors import BadSetting, Problem

if TYPE_CHECKING:
    from monolith.db.models import User


class Lines(click.ClickException):
    """What a command cannot do, with a line for each reason."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines

    def show(self, file: IO[Any] | None = None) -> None:
        for line in self.lines:
            click.echo(f"Error: {line}", file, err=True)


class Commands(click.Group):
    """Commands whose expected troubles are one line each on standard error and exit code 1, never a traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BadSetting as error:
            from monolith import logs

            raise Lines(*map(logs.mask, error.lines)) from error
        except Problem as error:
            raise click.ClickException(str(error)) from error
        except Exception as error:
            line = _outside_trouble(error)
            if line is None:
                raise
            from monolith import logs

            raise click.ClickException(logs.mask(line)) from error


def _outside_trouble(error: Exception) -> str | None:
    """One line when the database, Redis or the disk failed us; None when the fault is ours."""
    from redis import RedisError
    from sqlalchemy.exc import DBAPIError

    if isinstance(error, DBAPIError):
        said = str(error.orig).strip().splitlines()[0]
        return f"Database error: {said}. If the tables are out of date, run `manage.py db upgrade`. Run `manage.py doctor` for details."
    if isinstance(error, RedisError):
        return f"Redis error: {error}. Run `manage.py doctor` to see what to fix."
    if isinstance(error, OSError) and error.filename:
        return f"Cannot use {error.filename}: {error.strerror}. Correct the setting that names it, or its permissions."
    return None


def _for_developers(module: str, command: str) -> ModuleType:
    """Import a module that is in a checkout and not in a deployed image."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and module.startswith(error.name):
            why = f"The folder {error.name.partition('.')[0]}/ is missing here: run `manage.py {command}` in a checkout of Intray."
        else:
            why = f"{error.name} is missing: `manage.py {command}` is for developers. Run `make test` in a checkout first."
        raise click.ClickException(why) from error


class BenchCommands(click.Group):
    """The commands of bench/commands.py, imported when one of them is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return self._commands.list_commands(context)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return self._commands.get_command(context, name)

    @property
    def _commands(self) -> click.Group:
        commands: click.Group = _for_developers("bench.commands", "bench").commands
        return commands


def _print_version(context: click.Context, option: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        from monolith.config import version

        click.echo(f"Intray {version()}")
        context.exit()


@click.group(cls=Commands, help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the version and exit.")
def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may have what the terminal cannot show


def _begin(process: str) -> None:
    """Set up the logs of a process, and log which settings may be misspelt. Raises `BadSetting`."""
    import multiprocessing

    import structlog

    from monolith import logs
    from monolith.config import misspelt

    logs.configure(process)
    if multiprocessing.parent_process() is None:  # else it is a fork of `manage.py run`, which has said it
        for name, meant in misspelt().items():
            structlog.get_logger().warning("unknown_setting", name=name, did_you_mean=meant)


@main.command()
def run() -> None:
    """Run everything on this machine until Ctrl-C: web, worker, clock and, if needed, Redis."""
    _begin("run")
    from monolith.server import run_all

    run_all.run(lambda name: main([name]), click.echo)


@main.command()
def web() -> None:
    """Run the web server on HOST:PORT."""
    from monolith.linux import processes
    from monolith.server import run_all

    _begin("web")  # before gunicorn is imported: it reads settings of its own as it is
    from monolith.server.gunicorn_worker import serve

    run_all.check_address(may_be_taken=True)
    processes.forks_die_with_us()
    processes.keep_few_heaps()
    _warn_without_redis()
    serve()


def _warn_without_redis() -> None:
    """Log what to do where nothing is set and `make run` is not running. Web and clock go on: jobs are accepted, and wait."""
    import structlog

    from monolith.config import settings
    from monolith.server import run_all

    if settings().redis_is_ours and settings().queue_mode == "redis":
        try:
            run_all.require_redis()
        except BadSetting as error:
            structlog.get_logger().warning("redis_away", error=str(error))


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def worker(arguments: tuple[str, ...]) -> None:
    """Run one `rq worker` for all queues. ARGUMENTS are passed to RQ, such as --burst or --name."""
    _begin("worker")
    from monolith.runner.worker import command
    from monolith.server import run_all

    command.check_worker_class()
    run_all.require_redis()
    command.work(arguments)


@main.command()
def clock() -> None:
    """Run the clock until SIGTERM: start due jobs and schedules, recover lost jobs, send alerts."""
    _begin("clock")
    from monolith.runner.scheduler import clock
    from monolith.server.child_processes import StopSignal

    _warn_without_redis()
    stop = StopSignal()
    clock.run(stop.is_asked, stop.wait)


@main.group()
def db() -> None:
    """Manage the database."""


@db.command()
def upgrade() -> None:
    """Upgrade the tables to the newest version."""
    from monolith import logs
    from monolith.db import engine

    logs.configure("db")
    engine.upgrade()
    click.echo("The tables are up to date.")


@main.group()
def user() -> None:
    """Manage users."""


def _hide(context: click.Context, option: click.Parameter, password: str) -> str:
    """Take the password out of the command line that `ps` shows."""
    from monolith.linux import processes

    processes.set_command_line(
        *(word.removesuffix(password) + "***" if word in (password, f"--password={password}") else word for word in sys.orig_argv)
    )
    return password


_password = click.option(
    "--password", prompt=True, confirmation_prompt=True, hide_input=True, callback=_hide, help="Asked for if it is not given."
)


@user.command("create")
@click.option("--email", required=True)
@_password
@click.option("--admin", "role", flag_value="admin", help="Can see and change everything.")
@click.option("--viewer", "role", flag_value="viewer", help="Can see everything but change nothing.")
def create_user(email: str, password: str, role: str | None) -> None:
    """Create a user."""
    from monolith.accounts import users
    from monolith.runner.ledger import audit

    made = users.create_user(email, password, audit.at_command_line(), is_admin=role == "admin", is_viewer=role == "viewer")
    click.echo(f"Created {role or 'user'} {made.email}.")


@user.command("password")
@click.option("--email", required=True)
@_password
def set_password(email: str, password: str) -> None:
    """Set a user's password and sign them out everywhere."""
    from monolith.accounts import users
    from monolith.runner.ledger import audit

    users.reset_password(_user(email), password, audit.at_command_line())
    click.echo(f"Changed the password of {email} and signed them out everywhere.")


def _user(email: str) -> User:
    from monolith.accounts import users

    found = users.find_user(email)
    if found is None:
        raise click.ClickException(f"User {email} does not exist. Create one with `manage.py user create`.")
    return found


@main.group()
def token() -> None:
    """Manage API tokens."""


@token.command("create")
@click.option("--email", required=True, help="The user the token belongs to.")
@click.option("--name", default="command line", show_default=True, help="The token's name.")
@click.option("--scope", default="admin", show_default=True, help="read, submit, or admin (everything its owner can do).")
@click.option("--days", type=click.FloatRange(0), help="Days until it expires. Default: never.")
def create_token(email: str, name: str, scope: str, days: float | None) -> None:
    """Create an API token. It is shown only once, at the end of the output."""
    from monolith.accounts import tokens
    from monolith.runner.ledger import audit

    owner = _user(email)
    _, secret = tokens.create_token(owner.id, name, scope, days, audit.at_command_line())
    click.echo(f"API token for {owner.email} (not shown again): {secret}")


@main.command()
@click.option("--release", is_flag=True, help="Check only what a new version needs before its processes start.")
def doctor(release: bool) -> None:
    """Check this deployment and say how to fix each problem. Exits with 1 if there is a problem."""
    from monolith import logs
    from monolith.server import doctor

    with suppress(BadSetting):  # which is among the findings
        logs.configure("doctor")
    findings = []
    for finding in doctor.examine(release):
        click.echo(str(finding))
        findings.append(finding)
    if any(finding.is_problem for finding in findings):
        raise SystemExit(1)


@main.group()
def ai() -> None:
    """Manage the language model."""


@ai.command("test")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def test_ai(as_json: bool) -> None:
    """Test the language model with one small, paid request. Exits with 1 if it fails or none is configured."""
    from jobs.tools.llm import connection_test
    from monolith import logs

    logs.configure("ai")
    found = connection_test.run_connection_test()
    click.echo(json.dumps(found) if as_json else f"{found['message']} ({found['duration_ms']} ms, {found['usd']} USD)")
    if not found["ok"]:
        raise SystemExit(1)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ledger(as_json: bool) -> None:
    """Account for every job ever accepted. Exits with 1 if the numbers do not match."""
    from monolith.runner.ledger import balance

    accounts = balance.balance()
    click.echo(accounts.json() if as_json else str(accounts))
    if accounts.imbalance:
        raise SystemExit(1)


@main.group(cls=BenchCommands)
def bench() -> None:
    """Measure Intray, beside stock RQ where that can be; for developers."""


@main.command()
@click.option("--minutes", default=10.0, show_default=True, help="How long to run.")
@click.option("--seed", default=7, show_default=True, help="Random seed for the faults, their order and the mix of jobs.")
@click.option("--jobs", type=int, help="Number of jobs to submit. Default: 5 per second.")
@click.option("--database", type=click.Choice(["sqlite", "postgresql"]), default="sqlite", show_default=True, help="Database to test with.")
def chaos(minutes: float, seed: int, jobs: int | None, database: str) -> None:
    """Load-test a separate installation while killing and freezing its parts. Exits with 1 if a job is lost, stuck or done twice."""
    trial = _for_developers("tests.support.chaos.trial", "chaos")
    report = trial.run(trial.Plan(database, seed, minutes * 60, jobs or int(minutes * 60 * 5)), click.echo)
    click.echo(str(report))
    if report.wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

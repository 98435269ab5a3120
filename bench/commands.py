"""`manage.py bench ...`. Each command measures Intray and stock RQ in one run and prints a table; docs/performance.md has the results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

AtLeastOne = click.IntRange(min=1)
passes = click.option(
    "--passes", type=AtLeastOne, default=3, show_default=True, help="Number of measurements of each contender, taken in turns."
)
concurrency = click.option("--concurrency", type=AtLeastOne, default=5, show_default=True, help="Number of jobs to run at once.")


commands = click.Group()


def _jobs(default: int, least: int = 1) -> Callable[[Any], Any]:
    return click.option("--jobs", type=click.IntRange(min=least), default=default, show_default=True)


@commands.command()
@_jobs(5000)
@passes
@concurrency
def worker(jobs: int, passes: int, concurrency: int) -> None:
    """Measure jobs per second, and CPU, Redis commands and memory per job."""
    from bench import rig, throughput

    with rig.prepared(click.echo) as stand:
        throughput.measure(stand, jobs, passes, concurrency, click.echo)


@commands.command()
@_jobs(200, least=2)
@passes
@concurrency
def latency(jobs: int, passes: int, concurrency: int) -> None:
    """Measure the time from submission to start on an idle worker."""
    from bench import latency, rig

    with rig.prepared(click.echo) as stand:
        latency.measure(stand, jobs, passes, concurrency, click.echo)


@commands.command()
@passes
@concurrency
def memory(passes: int, concurrency: int) -> None:
    """Measure the memory of an idle worker."""
    from bench import memory, rig

    with rig.prepared(click.echo) as stand:
        memory.measure(stand, passes, concurrency, click.echo)


@commands.command()
@click.option("--seconds", type=click.FloatRange(min=0.1), default=10.0, show_default=True)
@passes
@concurrency
def idle(seconds: float, passes: int, concurrency: int) -> None:
    """Measure the CPU time and Redis commands of an idle worker."""
    from bench import idle, rig

    with rig.prepared(click.echo) as stand:
        idle.measure(stand, seconds, passes, concurrency, click.echo)


@commands.command()
@click.option("--streams", type=AtLeastOne, default=200, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0.1), default=10.0, show_default=True)
def streams(streams: int, seconds: float) -> None:
    """Measure the latency of ordinary requests while event streams are open on one web process."""
    from bench import rig
    from bench import streams as of_streams

    with rig.prepared(click.echo):
        of_streams.measure(streams, seconds, click.echo)


@commands.command()
@passes
@click.option("--seconds", type=AtLeastOne, default=5, show_default=True, help="For so long each pass sends.")
def submit(passes: int, seconds: int) -> None:
    """Measure the cost of a submission, beside a bare Flask and RQ route."""
    from bench import rig, submissions

    with rig.empty_redis():
        submissions.measure(passes, seconds, click.echo)


@commands.command()
@passes
@concurrency
@click.option("--workers", type=AtLeastOne, default=1, show_default=True)
@click.option("--light", type=AtLeastOne, default=20, show_default=True, help="Number of light users, who submit a job every 2 s each.")
@click.option("--job-ms", type=click.FloatRange(1, 10_000), default=100.0, show_default=True, help="How long each job takes.")
@click.option("--seconds", type=click.FloatRange(min=0.5), default=10.0, show_default=True, help="For so long they submit.")
def fair(passes: int, concurrency: int, workers: int, light: int, job_ms: float, seconds: float) -> None:
    """Measure how long light users wait, alone and beside a heavy user."""
    from bench import fairness, rig

    with rig.empty_redis():
        fairness.measure(fairness.Plan(light, job_ms / 1000, seconds, concurrency, workers), passes, click.echo)


@commands.command()
@click.option("--queued", default=100_000, show_default=True)
@click.option("--finished", default=1_000_000, show_default=True)
def clock(queued: int, finished: int) -> None:
    """Fill the empty database of DATABASE_URL and the empty Redis of REDIS_URL, then time 20 rounds of the clock's tasks."""
    from bench import clock_rounds, rig

    with rig.empty_redis():
        clock_rounds.measure(queued, finished, click.echo)


@commands.command()
@click.option("--minutes", type=click.FloatRange(min=0.05), default=10.0, show_default=True)
@click.option("--per-minute", type=AtLeastOne, default=1000, show_default=True, help="Submissions per minute.")
@concurrency
@click.option(
    "--steps",
    type=click.IntRange(min=0),
    default=6,
    show_default=True,
    help="Afterwards, raise the load by half this many times, to find the limit.",
)
@click.option("--step-seconds", type=click.FloatRange(min=1), default=30.0, show_default=True, help="Length of each step.")
def load(minutes: float, per_minute: int, concurrency: int, steps: int, step_seconds: float) -> None:
    """Run a steady load of `analyze` jobs without AI, then raise it to find the limit. Exits with 1 if the load is not sustained."""
    from bench import steady

    if not steady.measure(steady.Plan(minutes * 60, per_minute, concurrency, steps, step_seconds), click.echo):
        raise SystemExit(1)


@commands.command()
@click.option("--jobs", type=AtLeastOne, default=1_000_000, show_default=True)
def admin(jobs: int) -> None:
    """Fill the empty PostgreSQL of DATABASE_URL, then time every admin page and /metrics."""
    from bench import admin_pages, rig

    with rig.empty_redis():
        admin_pages.measure(jobs, click.echo)

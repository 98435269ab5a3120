"""Three hosts and that of the servers, cut off from each other and rejoined: nothing is lost, and nothing is done twice with effect."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chaos.ledger import Ledger, runs_in
from tests.support.chaos.load import SUCCEEDS, Load
from tests.support.chaos.oracle import judge
from tests.support.hosts.network import Hosts, new_hosts
from tests.support.processes import until

JOBS, MORE = 60, 20
SECONDS = 30
SILENT_S = 34  # longer than a worker may be silent


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with new_hosts(tmp_path) as four:
        yield four


class GoodLoad(Load):
    """Jobs that succeed, and often last longer than a moment: some run wherever a cable is pulled."""

    def _kinds(self, rng: random.Random) -> list[str]:
        weights = {"chaos_quick": 4, "chaos_sleep": 3, "chaos_steps": 3}
        return rng.choices(SUCCEEDS, [weights.get(kind, 1) for kind in SUCCEEDS], k=self.jobs)

    def fill_all_children(self) -> None:
        """Submit at once what keeps three workers of five children busy."""
        for number in range(MORE):
            self._submit(f"more-{number}", {"type": "chaos_sleep", "params": {"seconds": 3}})


@pytest.mark.timeout(600)
def test_whoever_is_cut_off_nothing_is_lost_and_nothing_is_done_twice(hosts: Hosts, tmp_path: Path) -> None:
    ledger = Ledger(hosts.database_url)
    load = GoodLoad(hosts.base_url, hosts.token, seed=5, jobs=JOBS, seconds=SECONDS, live=ledger.live, most_live=30)
    submitter = threading.Thread(target=load.run)
    submitter.start()
    until(lambda: _runs_at(ledger, "worker-b"), 180, hosts.said)
    hosts.hosts["worker-b"].cut_off()
    hosts.add_worker("worker-c")  # nothing else is needed to scale out
    # A worker that cannot reach Redis as it starts ends, and a host starts it again; nobody does here.
    until(lambda: hosts.listens("worker-c"), 120, hosts.said)
    rejoins_at = time.monotonic() + SILENT_S
    for name, seconds in (("worker-a", 3), ("data", 6), ("web", 4)):
        _cut_off_for(hosts, name, seconds)
    until(lambda: time.monotonic() > rejoins_at and _was_silent(ledger, "worker-b"), 2 * SILENT_S, hosts.said)
    hosts.hosts["worker-b"].rejoin()
    submitter.join()
    load.fill_all_children()
    until(lambda: ledger.live() == 0, 180, hosts.said)
    pages, runs = ledger.read(), runs_in(tmp_path / "runs")
    ledger.close()
    verdict = judge(pages, load.accepted, runs)
    assert verdict.wrong == {}, f"{verdict.wrong}\n{hosts.said()}"
    assert len(load.accepted) == JOBS + MORE and set(load.refusals) <= {503}
    assert {job.worker for job in pages.jobs.values()} >= {"worker-a", "worker-c"}
    assert sum(runs.values()) > JOBS + MORE  # some began at B and were done at A
    hosts.manage("ledger")


def _runs_at(ledger: Ledger, worker: str) -> bool:
    return any(job.status == "started" and job.worker == worker for job in ledger.read().jobs.values())


def _was_silent(ledger: Ledger, worker: str) -> bool:
    return any(f"worker {worker} stopped reporting" in note for events in ledger.read().events.values() for _, _, _, note in events)


def _cut_off_for(hosts: Hosts, name: str, seconds: float) -> None:
    hosts.hosts[name].cut_off()
    over = threading.Event()
    over.wait(seconds)
    hosts.hosts[name].rejoin()
    over.wait(2)

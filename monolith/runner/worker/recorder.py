"""Records the outcomes that are kept on disk, in a thread: in each worker's hook process and in each clock, whoever comes first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import structlog
from sqlalchemy.exc import DBAPIError

from monolith.errors import Invalid
from monolith.logs import Fault
from monolith.runner.ledger import lifecycle
from monolith.runner.ledger.lifecycle import RunEnding
from monolith.runner.ledger.on_failure import ConfinedCalls
from monolith.runner.prefork.hooks import HEARTBEAT_S, LATER
from monolith.runner.worker import execute, kept_outcomes
from monolith.runner.worker.kept_outcomes import KEPT_S, MAX_FILE, Kept
from monolith.runner.worker.ledger_calls import LedgerCalls, send_heartbeats

LOOK_S = 1.0
MAX_DENIED = 10  # then that process is frozen: two at a time do no harm, as each record is fenced
LONGEST_WAIT_S = 30.0  # between two attempts of an outcome that the ledger refuses
log = structlog.get_logger()


class Recorder:
    """Sends the heartbeats of the jobs whose outcomes are kept, so that nobody runs them again, and records the outcomes."""

    def __init__(self) -> None:
        self._calls = LedgerCalls()
        self._on_failure = ConfinedCalls()
        self._fault = Fault("kept_outcomes_not_recorded")
        self._beat_at = 0.0
        self._denied = 0  # how often in a row another process of this host was at work
        self._waits: dict[tuple[str, int], tuple[float, float]] = {}  # of a claim that was refused: when it is tried again, and the wait

    def start(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Work at once, so that no job runs again whose outcome is known; then in a thread, until `stopped()`."""
        self._work_safely()
        threading.Thread(target=self._run, args=(stopped,), name="recorder", daemon=True).start()

    def _run(self, stopped: Callable[[], bool]) -> None:
        while not stopped():
            time.sleep(LOOK_S)
            self._work_safely()

    def _work_safely(self) -> None:
        try:
            self.work()
        except Exception as error:
            self._fault.occurred(error)
        else:
            self._fault.ended()

    def work(self) -> None:
        """Record what the ledger takes now, unless another process of this host does."""
        if not kept_outcomes.all_kept():
            return
        with kept_outcomes.alone() as is_alone:
            self._denied = 0 if is_alone else self._denied + 1
            if is_alone or self._denied > MAX_DENIED:
                kept_outcomes.clean()
                self._work(kept_outcomes.all_kept())

    def _work(self, kept: list[Kept]) -> None:
        self._waits = {one.claim: self._waits[one.claim] for one in kept if one.claim in self._waits}
        if time.monotonic() < self._beat_at and not any(map(self._is_due, kept)):
            return
        self._beat_at = time.monotonic() + HEARTBEAT_S
        held = self._calls.ask(send_heartbeats, [one.claim for one in kept])
        current = []
        for one, is_held in zip(kept, held, strict=True):
            if is_held == LATER or not (is_held or self._recover(one)):
                continue
            if one.kept_s > KEPT_S:
                self._give_up(one)
            elif self._is_due(one):
                current.append(one)
        for some in _batches(current):
            self._record(some)

    def _is_due(self, one: Kept) -> bool:
        return time.monotonic() >= self._waits.get(one.claim, (0.0, 0.0))[0]

    def _recover(self, one: Kept) -> bool:
        """Whether the job was given up with its worker, waited to run again, and need not. Otherwise its outcome is of no use any more."""
        ending = self._read(one)
        if ending is None:
            if one.kept_s > KEPT_S:
                one.remove()
            return False
        [answer] = self._calls.ask(self._recover_each, [(*one.claim, ending)], DBAPIError)
        if answer:
            return answer is True  # not `LATER`
        log.warning("job_overtaken", job_id=one.job_id, reason="The job was stopped or given to another worker: its outcome is dropped.")
        one.remove()
        return False

    @staticmethod
    def _recover_each(asked: list[tuple[str, int, RunEnding]]) -> list[bool]:
        return [lifecycle.recover(ending) for *_, ending in asked]

    def _read(self, one: Kept) -> RunEnding | None:
        """The outcome; None when it cannot be read, or has a follow-up of a type that only another version knows."""
        try:
            return one.read()
        except Invalid:
            self._put_off(one)
            return None

    def _put_off(self, one: Kept) -> None:
        wait_s = min(2 * self._waits.get(one.claim, (0.0, LOOK_S / 2))[1], LONGEST_WAIT_S)
        self._waits[one.claim] = time.monotonic() + wait_s, wait_s

    def _record(self, kept: list[Kept]) -> None:
        read = [(one, ending) for one in kept if (ending := self._read(one))]
        answers = self._calls.ask(self._record_each, [(*one.claim, ending) for one, ending in read], DBAPIError)
        for (one, _), answer in zip(read, answers, strict=True):
            if answer == LATER:
                self._put_off(one)
            else:
                log.info("kept_outcome_recorded", job_id=one.job_id)
                one.remove()

    def _record_each(self, asked: list[tuple[str, int, RunEnding]]) -> list[str | None]:
        waiting = execute.record([ending for *_, ending in asked], self._on_failure.outcome)
        return [LATER if ending.claim in waiting else None for *_, ending in asked]

    @staticmethod
    def _give_up(one: Kept) -> None:
        with suppress(DBAPIError):
            execute.record_unrecorded(*one.claim)
        one.remove()


def _batches(kept: list[Kept]) -> Iterator[list[Kept]]:
    """Batches that do not take too much memory."""
    some: list[Kept] = []
    for one in kept:
        if some and sum(other.size for other in some) + one.size > MAX_FILE:
            yield some
            some = []
        some.append(one)
    if some:
        yield some

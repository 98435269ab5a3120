"""Submitters: they hand in jobs over HTTP at a bounded rate, and send again whatever they got no clear answer to."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import requests

SUCCEEDS = ("chaos_quick", "chaos_second_time", "chaos_sleep", "chaos_steps", "chaos_wait", "chaos_large")
FAILS = {  # by the type of error that it must fail with
    "chaos_raise": "RuntimeError",
    "chaos_slow": "timeout",
    "chaos_c_loop": "timeout",
    "chaos_grandchild": "timeout",
    "chaos_segfault": "poison",
    "chaos_wait_late": "timeout",
    "chaos_wait_stuck": "timeout",
    "chaos_wait_segfault": "poison",
    "chaos_allocate": "MemoryError",
    "chaos_big": "permanent",
    "chaos_strange": "permanent",
    "chaos_unrecordable": "IntegrityError",
}
MIX = {
    "chaos_quick": 70,
    "chaos_second_time": 10,
    "chaos_sleep": 6,
    "chaos_steps": 4,
    "chaos_wait": 10,
    "chaos_large": 6,
    "chaos_raise": 4,
    "chaos_big": 2,
    "chaos_strange": 2,
}
RARE = 1  # weight of every other kind
WAIT_S = 0.3
SUBMITTERS = 4
LOOK_S = 0.5


@dataclass
class Load:
    """`jobs` submissions, spread evenly over `seconds`, while at most `most_live` jobs wait or run."""

    url: str
    token: str
    seed: int
    jobs: int
    seconds: float
    live: Callable[[], int]
    most_live: int = 60
    accepted: dict[str, str] = field(default_factory=dict)  # kind by id, of everything that was answered 2xx
    doubts: int = 0  # sent, and no clear answer came
    refusals: Counter[int] = field(default_factory=Counter)  # by HTTP status: not accepted, and sent again
    is_over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Submit all of them; returns early when `is_over` is set, but never in doubt about one."""
        rng = random.Random(self.seed)
        bodies = [{"type": kind, "params": _params(kind, rng)} for kind in self._kinds(rng)]
        with ThreadPoolExecutor(SUBMITTERS) as submitters:
            list(submitters.map(self._run_one, (list(enumerate(bodies))[first::SUBMITTERS] for first in range(SUBMITTERS))))

    def _run_one(self, numbered: list[tuple[int, dict[str, Any]]]) -> None:
        started_at = time.monotonic()
        for number, body in numbered:
            while self.live() >= self.most_live or time.monotonic() < started_at + number * self.seconds / self.jobs:
                if self.is_over.wait(LOOK_S):
                    return
            if self.is_over.is_set():
                return
            self._submit(f"chaos-{self.seed}-{number}", body)

    def _kinds(self, rng: random.Random) -> list[str]:
        """One of each first, or a small run might lack some; in a random order."""
        every = [*SUCCEEDS, *FAILS]
        kinds = every + rng.choices(every, [MIX.get(kind, RARE) for kind in every], k=max(0, self.jobs - len(every)))
        rng.shuffle(kinds)
        return kinds[: self.jobs]

    def _submit(self, key: str, body: dict[str, Any]) -> None:
        headers = {"Authorization": f"Bearer {self.token}", "Idempotency-Key": key}
        while True:
            try:
                answer = requests.post(f"{self.url}/api/v1/jobs", json=body, headers=headers, timeout=30)
            except requests.RequestException as error:
                self.doubts += "refused" not in str(error)
            else:
                if answer.ok:
                    self.accepted[answer.json()["id"]] = body["type"]
                    return
                self.refusals[answer.status_code] += 1
            time.sleep(WAIT_S)


def _params(kind: str, rng: random.Random) -> dict[str, Any]:
    if kind == "chaos_quick":
        return {"seconds": round(rng.choice([0, 0, 0.1, 0.5]), 1)}
    return {"seconds": round(rng.uniform(2, 8), 1)} if kind in ("chaos_sleep", "chaos_steps", "chaos_wait") else {}

"""Rates of calls to a server, which all jobs share: a language model's requests and tokens a minute. Held in SQL.

A call is charged before it is made. A job for which there is no room is snoozed until its slot: one after the other, in the order
in which they asked. It is charged when it comes back, and asks again in vain only where earlier calls were dearer than they said.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, delete, func, select

from monolith.db import rates
from monolith.db.engine import read_now, write_transaction
from monolith.db.rates import RateUse
from monolith.errors import Snooze
from monolith.rate import Rate

LOCK = 0x63616C6C73  # of PostgreSQL's advisory locks, until the end of the transaction
EARLY_S = 0.05  # a slot that is nearer than this is not waited for

Costs = Mapping[str, tuple[Rate, float]]  # by name, such as `requests to the language model`: the rate, and what the call costs of it


def use(job_id: str, costs: Costs) -> None:
    """Charge a call to these rates. Raises `Snooze` where one has no room, and charges nothing then."""
    if not costs:
        return
    with write_transaction() as connection:
        _lock(connection)
        slot = _slot(job_id)
        known = rates.read(connection, [slot, *costs, *map(_waiting, costs)])
        moment = read_now(connection)
        is_its_turn = slot in known and known[slot] <= moment + EARLY_S
        frees = {name: rates.free_at(known.get(name, 0.0), rate, moment, cost) for name, (rate, cost) in costs.items()}
        if not is_its_turn:  # behind those that wait
            frees = {name: max(free_at, known.get(_waiting(name), 0.0)) for name, free_at in frees.items()}
        last = max(frees, key=lambda name: frees[name])
        if frees[last] <= moment + EARLY_S:
            rates.write(connection, {name: rates.used(known.get(name, 0.0), rate, moment, cost) for name, (rate, cost) in costs.items()})
            connection.execute(delete(RateUse).where(RateUse.key == slot))
            return
        reserved = {} if is_its_turn else {_waiting(name): frees[last] + rates.interval_s(*costs[name]) for name in costs}
        rates.write(connection, {slot: frees[last], **reserved})
    amount, _, unit = str(costs[last][0]).partition(" ")
    raise Snooze(frees[last] - moment, f"The {last} are limited to {amount} {unit}.")


def correct(costs: Costs) -> None:
    """Charge what a call has used more than was charged before it; give back what it has used less, by a negative cost."""
    if not costs:
        return
    with write_transaction() as connection:
        _lock(connection)
        known = rates.read(connection, list(costs))
        rates.write(connection, {name: known.get(name, 0.0) + rates.interval_s(*costs[name]) for name in costs})


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(LOCK)))


def _slot(job_id: str) -> str:
    return f"slot {job_id}"


def _waiting(name: str) -> str:
    """The key under which it is kept until when slots are given out."""
    return f"waiting {name}"

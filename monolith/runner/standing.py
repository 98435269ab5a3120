"""How things stand: the open alerts, and what only those who ask can see."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from monolith.runner import alert_rules, alerts, clock, queues
from monolith.runner.alert_rules import CRITICAL, RULES, Condition
from monolith.runner.looking import look

CLOCK_MISSING = "No clock is running: nothing delayed or tried again starts, and no alert is sent. Start one with `manage.py clock`."


@dataclass(frozen=True)
class Standing:
    """One alert that holds now. `opened_at` is None for what was seen just now."""

    code: str
    severity: str
    subject: str
    message: str
    opened_at: float | None = None

    @property
    def mend(self) -> str:
        """What to do about it."""
        return RULES[self.code].mend if self.code in RULES else ""


def standing(session: Session) -> list[Standing]:
    """The alerts that hold now, the critical first.

    The clock cannot say that it is missing. Then nobody judges the others either, and it is done here. Redis is asked here
    too: it may be away for this process alone.
    """
    kept = [Standing(one.code, one.severity, one.subject, one.message, one.opened_at) for one in alerts.opened(session)]
    seen = [] if queues.is_reachable() else [Condition("redis_away", "redis", alert_rules.REDIS_AWAY)]
    if not clock.is_ticking(session):
        seen += [Condition("clock_missing", "clock", CLOCK_MISSING), *(one for one in alert_rules.conditions(look()) if one.opens)]
    known = {(one.code, one.subject): one for one in kept}
    for one in seen:
        known.setdefault((one.code, one.subject), Standing(one.code, one.severity, one.subject, one.message))
    return sorted(known.values(), key=lambda one: one.severity != CRITICAL)


def is_healthy(found: list[Standing]) -> bool:
    """Something critical makes it unhealthy; warnings do not."""
    return not any(one.severity == CRITICAL for one in found)

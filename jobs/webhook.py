"""The job type `webhook`: delivers events to the endpoints of a user, signed according to Standard Webhooks 1.0."""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from queue import Empty, SimpleQueue
from typing import Any

from marshmallow import Schema

from monolith.content.http_post import PostResult, post
from monolith.errors import Conflict
from monolith.job_types import registry
from monolith.job_types.registry import Delivery, Job, job_type

# Before attempts 2 to 10, three days in total. Jitter is added, so that deliveries do not all come back at once.
RETRY_DELAYS_S = (5, 300, 1800, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 18 * 3600, 22 * 3600)
JITTER = 0.1
DISABLE_AFTER_S = 5 * 24 * 3600  # of failures only
AT_ONCE = 16  # deliveries that a job has in flight
HOST_AT_ONCE = 8  # of these, to one host
TURN_S = 5.0  # after this, a job begins no further delivery: others wait for its slot
POLL_S = 0.25  # a job that waits in C code meets its time limit, or its stop, this late


class Params(Schema):
    pass


@job_type(params=Params, takes="nothing", max_attempts=1, timeout=60, io_bound=True, submittable_by="nobody")
def webhook(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Deliver webhooks.

    Sends up to 100 deliveries of one user, 16 at a time and 8 to one host, and records the outcome of each. After 5 s the rest goes to
    another job, so that slow endpoints keep no slot. Intray submits these jobs itself. A delivery has ten attempts over
    three days, with 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 18 h and 22 h in between, or as long as
    `Retry-After` asks. Progress is sent once, as newer progress follows.
    """
    unsent = list(job.deliveries())
    counts = Counter(delivered=0, failed=0)
    try:
        for delivery, result in _send(unsent):
            counts["delivered" if result.error is None else "failed"] += 1
            if _record(job, delivery, result):
                unsent[:] = [one for one in unsent if one.endpoint_id != delivery.endpoint_id]
    finally:
        if unsent:
            job.give_back(unsent)
    return {**counts, "given_back": len(unsent)}


def _send(unsent: list[Delivery]) -> Iterator[tuple[Delivery, PostResult]]:
    """Send them, each in a thread, and yield each with its result. Those that were not begun in time stay in the list."""
    in_flight: dict[str, Delivery] = {}
    results: SimpleQueue[tuple[Delivery, PostResult]] = SimpleQueue()
    turn_ends_at = time.monotonic() + TURN_S
    while True:
        while time.monotonic() < turn_ends_at and (delivery := _next(unsent, in_flight)):
            in_flight[delivery.id] = delivery
            unsent.remove(delivery)
            threading.Thread(target=lambda one: results.put((one, _post(one))), args=(delivery,), daemon=True).start()
        if not in_flight:
            return
        try:
            delivery, result = results.get(timeout=POLL_S)
        except Empty:
            continue
        del in_flight[delivery.id]
        yield delivery, result


def _next(unsent: list[Delivery], in_flight: Mapping[str, Delivery]) -> Delivery | None:
    """The first that may be sent beside those in flight: a host that hangs leaves threads to the others."""
    if len(in_flight) >= AT_ONCE:
        return None
    of_host = Counter(one.host for one in in_flight.values())
    return next((one for one in unsent if of_host[one.host] < HOST_AT_ONCE), None)


def _post(delivery: Delivery) -> PostResult:
    try:
        return post(delivery.url, delivery.body.encode(), {"Content-Type": "application/json", **signed_headers(delivery)})
    except Conflict as error:
        return PostResult(None, "", error.detail)
    except Exception as error:  # one message that cannot be sent keeps none of the others
        return PostResult(None, "", f"The message could not be sent: {type(error).__name__}: {error}")


def _record(job: Job, delivery: Delivery, result: PostResult) -> bool:
    """Record the outcome of an attempt. Returns whether that has disabled the endpoint."""
    outcome = {"response_status": result.status, "response_text": result.text, "error": result.error, "duration": result.seconds}
    reason = _disable_reason(delivery, result)
    is_disabled = delivery.record(is_delivered=result.error is None, again_in=_retry_delay(delivery, result), disable=reason, **outcome)
    if is_disabled:
        _notify_owner(job, delivery, str(reason))
    return is_disabled


def signed_headers(delivery: Delivery) -> dict[str, str]:
    """Returns the headers of this attempt. There is a signature for each secret, so that a secret can be rotated."""
    signed_content = f"{delivery.id}.{delivery.timestamp}.{delivery.body}".encode()
    keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in delivery.secrets]
    signatures = [f"v1,{base64.b64encode(hmac.digest(key, signed_content, hashlib.sha256)).decode()}" for key in keys]
    return {
        "User-Agent": "Intray/1.0 (webhooks)",
        "webhook-id": delivery.id,
        "webhook-timestamp": str(delivery.timestamp),
        "webhook-signature": " ".join(signatures),
    }


def _retry_delay(delivery: Delivery, result: PostResult) -> float | None:
    """Seconds until the next attempt; None if there is none."""
    if result.error is None or result.status == 410 or delivery.type == "job.progress" or delivery.attempts >= len(RETRY_DELAYS_S):
        return None
    return max(RETRY_DELAYS_S[delivery.attempts], result.retry_after or 0) * random.uniform(1, 1 + JITTER)


def _disable_reason(delivery: Delivery, result: PostResult) -> str | None:
    if result.status == 410:
        return "The endpoint answered 410 (gone)."
    if result.error and delivery.failing_s > DISABLE_AFTER_S:
        return f"Every delivery has failed for five days. Last error: {result.error}"
    return None


def _notify_owner(job: Job, delivery: Delivery, reason: str) -> None:
    if "email" in registry.discover():
        text = f"Your webhook {delivery.url} was disabled and gets no more events. {reason}\n\nFix the endpoint, then enable it again."
        job.follow_up("email", {"to": [delivery.owner_email], "subject": "Your webhook was disabled", "text": text})

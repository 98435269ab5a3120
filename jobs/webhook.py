"""Deliver a webhook: tell an endpoint of a user what happened to a job, signed as Standard Webhooks 1.0 has it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
from typing import Any

from marshmallow import Schema, fields

from monolith.content.http_post import Answer, post
from monolith.job_types import registry
from monolith.job_types.registry import Delivery, Job, job_type

# Before the second attempt, the third ... the tenth: three days in all. Jitter comes on top, or a fleet would come back as one.
PAUSES_S = (5, 300, 1800, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 18 * 3600, 22 * 3600)
JITTER = 0.1
GIVE_UP_ON_S = 5 * 24 * 3600  # an endpoint that has only failed for so long is disabled


class Params(Schema):
    delivery = fields.String(required=True, metadata={"description": "The id of the delivery"})


@job_type(params=Params, takes="nothing", max_attempts=1, timeout=60, io_bound=True, submittable_by="nobody")
def webhook(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Deliver a webhook.

    Sends one delivery to its endpoint, once, and records the outcome. Intray submits these jobs itself: ten attempts over
    three days, each a separate job, with 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 18 h and 22 h in between, or as long as
    `Retry-After` asks. Progress is sent once, as newer progress follows.
    """
    delivery = job.delivery(params["delivery"])
    if delivery is None:
        return {"outcome": "no longer to be sent"}
    answer = post(delivery.url, delivery.body.encode(), {"Content-Type": "application/json", **signed(delivery)})
    told = {"response_status": answer.status, "response_text": answer.text, "error": answer.error, "duration": answer.seconds}
    reason = _why_disable(delivery, answer)
    if delivery.record(is_delivered=answer.error is None, again_in=_pause(delivery, answer), disable=reason, **told):
        _tell_owner(job, delivery, str(reason))
    return {"status": answer.status, "error": answer.error}


def signed(delivery: Delivery) -> dict[str, str]:
    """The headers of this attempt; one signature for each secret, so that one can be replaced without missing anything."""
    said = f"{delivery.id}.{delivery.timestamp}.{delivery.body}".encode()
    signatures = [f"v1,{_signature(secret, said)}" for secret in delivery.secrets]
    return {
        "User-Agent": "Intray/1.0 (webhooks)",
        "webhook-id": delivery.id,
        "webhook-timestamp": str(delivery.timestamp),
        "webhook-signature": " ".join(signatures),
    }


def _signature(secret: str, said: bytes) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return base64.b64encode(hmac.digest(key, said, hashlib.sha256)).decode()


def _pause(delivery: Delivery, answer: Answer) -> float | None:
    """Seconds to the next attempt; None when there is none."""
    if answer.error is None or answer.status == 410 or delivery.type == "job.progress" or delivery.attempts >= len(PAUSES_S):
        return None
    return max(PAUSES_S[delivery.attempts], answer.retry_after or 0) * random.uniform(1, 1 + JITTER)


def _why_disable(delivery: Delivery, answer: Answer) -> str | None:
    if answer.status == 410:
        return "The endpoint answered 410 (gone)."
    if answer.error and delivery.failing_s > GIVE_UP_ON_S:
        return f"Every delivery has failed for five days. Last error: {answer.error}"
    return None


def _tell_owner(job: Job, delivery: Delivery, reason: str) -> None:
    if "email" in registry.discover():
        text = f"Your webhook {delivery.url} was disabled and gets no more events. {reason}\n\nFix the endpoint, then enable it again."
        job.follow_up("email", {"to": [delivery.owner_email], "subject": "Your webhook was disabled", "text": text})

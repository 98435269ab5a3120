"""The job type `webhook`: delivers an event to an endpoint, signed according to Standard Webhooks 1.0."""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
from typing import Any

from marshmallow import Schema, fields

from monolith.content.http_post import PostResult, post
from monolith.job_types import registry
from monolith.job_types.registry import Delivery, Job, job_type

# Before attempts 2 to 10, three days in total. Jitter is added, so that deliveries do not all come back at once.
RETRY_DELAYS_S = (5, 300, 1800, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 18 * 3600, 22 * 3600)
JITTER = 0.1
DISABLE_AFTER_S = 5 * 24 * 3600  # of failures only


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
    result = post(delivery.url, delivery.body.encode(), {"Content-Type": "application/json", **signed_headers(delivery)})
    outcome = {"response_status": result.status, "response_text": result.text, "error": result.error, "duration": result.seconds}
    reason = _disable_reason(delivery, result)
    if delivery.record(is_delivered=result.error is None, again_in=_retry_delay(delivery, result), disable=reason, **outcome):
        _notify_owner(job, delivery, str(reason))
    return {"status": result.status, "error": result.error}


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

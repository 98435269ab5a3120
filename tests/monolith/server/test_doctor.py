"""What doctor finds of alerts that nobody would hear of, and of the sandbox; every finding says the mend."""

from __future__ import annotations

import pytest

from monolith import errors
from monolith.server import doctor

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
MAIL = {"SMTP_URL": "smtp://127.0.0.1:1", "MAIL_FROM": "i@example.org"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ALERT_EMAIL": "ops@example.org"}, "Set SMTP_URL and MAIL_FROM too"),
        ({"SMTP_URL": "smtp://127.0.0.1:1"}, "MAIL_FROM is not"),
        ({**MAIL, "ALERT_EMAIL": "nobody"}, "ALERT_EMAIL is not valid: .* Correct or unset it"),
        (
            {"ALERT_WEBHOOK_URL": "http://10.0.0.1/x", "ALERT_WEBHOOK_SECRET": SECRET},
            "ALERT_WEBHOOK_URL is not valid: .* Correct or unset it",
        ),
        ({"ALERT_WEBHOOK_URL": "https://example.org/x"}, "ALERT_WEBHOOK_URL needs a signing secret"),
        ({"ALERT_WEBHOOK_URL": "https://example.org/x", "ALERT_WEBHOOK_SECRET": "whsec_short"}, "24 to 64 random bytes"),
    ],
)
def test_alerts_that_nobody_would_hear_of_are_trouble(intray_settings, settings, said):
    intray_settings(**settings)
    with pytest.raises((doctor.CheckFailed, errors.BadSetting), match=said):
        doctor.CHECKS["alerts"]()


def test_it_says_who_would_hear_of_an_alert(intray_settings):
    assert doctor.CHECKS["alerts"]() == "sent to the log"
    intray_settings(**MAIL)
    assert doctor.CHECKS["alerts"]() == "sent to the log, e-mail to all admins"


def test_it_tries_the_sandbox(intray_settings):
    said = doctor.CHECKS["sandbox"]()
    assert said.startswith("works (tested just now); each project may use 512 MB, 300 s") or said.startswith(
        "not available: Projects run in a sandbox"
    )

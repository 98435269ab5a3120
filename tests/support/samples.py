"""An application and a story as people hand them in, and what a model says of them."""

from __future__ import annotations

import re

GOOD = """# Application for organic certification

Applicant: Green Farm Ltd
Registration number: HRB 12345
E-mail: office@greenfarm.example
Phone: +44 113 496 0000
Address: 5 Mill Lane, Leeds LS1 4AP
Certification: organic farming
Date of application: 2026-11-02
Valid from: 2027-01-01
Valid until: 2027-12-31

## Scope

We grow wheat, oats and field beans on 42 hectares near Leeds. The harvest is stored in our own barn and sold to two mills.
We keep no animals, and nothing is bought in from other farms.

## Procedures

Every field has a record of seeds, manure and harvest. The manager reads the records each week. Machines that neighbours
use are cleaned before they enter our fields, and this is written down.

## Fees

- Inspection: EUR 400.00
- Laboratory: EUR 150.00
- Total: EUR 550.00

## Evidence

Field records of 2025 and a map of the fields are enclosed.

## Declaration

We declare that all of this is true. Ann Miller.
"""


def changed(old: str, new: str = "") -> str:
    """The good application with one thing changed: a text, or a pattern between slashes."""
    if old.startswith("/"):
        text, count = re.subn(old[1:-1], new, GOOD, flags=re.DOTALL | re.MULTILINE)
    else:
        text, count = GOOD.replace(old, new), GOOD.count(old)
    assert count, f"{old!r} is not in it"
    return text


POOR = changed("/^(Applicant|Address):.*?$/", "")  # a blocking and a major finding
PRAISE = {"summary": "A flawless application.", "score": 100, "findings": []}
STORY = {
    "title": "Revolutionary scanner will change medicine forever",
    "content": "A startup unveiled a groundbreaking scanner. It reads a scan in a minute. In a trial with 200 patients it found 91% of "
    "tumours. Some fear surveillance. The code is open-source.",
    "sector": "health",
    "impact_tags": ["privacy", "access"],
}
REFINED = {"hype_score": 4.5, "ethics_score": 6, "reality_check": "One small trial.", "eli5_summary": "A machine looks inside you."}

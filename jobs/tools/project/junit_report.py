"""The cases of a test run, from the JUnit XML that it wrote. Whoever wrote it may be hostile."""

from __future__ import annotations

import math
from typing import Any

from ...tools.project.terminal_text import readable

MAX_XML = 20 * 1024 * 1024
MAX_NAME, MAX_MESSAGE = 200, 500  # characters
OUTCOMES = {"failure": "failed", "error": "error", "skipped": "skipped"}


class BadReport(Exception):
    """It is no JUnit XML that can be read."""


def cases(report: bytes) -> list[dict[str, Any]]:
    """Every case in order: its name, class, outcome (passed, failed, error, skipped), seconds and message. Raises `BadReport`."""
    from lxml import etree

    if len(report) > MAX_XML:
        raise BadReport(f"it is larger than {MAX_XML // 1024 // 1024} MB")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True)
    try:
        tree = etree.fromstring(report, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise BadReport(str(error)[:200]) from None
    if tree.getroottree().docinfo.internalDTD is not None:
        raise BadReport("it declares a document type, which reports of tests do not")
    return [_case(one) for one in tree.iter("testcase")]


def totals(found: list[dict[str, Any]]) -> dict[str, int]:
    """How many cases there are in all, and of each outcome."""
    outcomes = [one["outcome"] for one in found]
    return {"total": len(outcomes), **{name: outcomes.count(name) for name in ("passed", "failed", "error", "skipped")}}


def _case(element: Any) -> dict[str, Any]:
    told = next((one for one in element if one.tag in OUTCOMES), None)
    message = "" if told is None else (told.get("message") or "".join(told.itertext()))
    return {
        "name": readable(element.get("name") or "")[:MAX_NAME],
        "class": readable(element.get("classname") or "")[:MAX_NAME],
        "outcome": "passed" if told is None else OUTCOMES[told.tag],
        "seconds": _seconds(element.get("time")),
        "message": readable(message.strip())[:MAX_MESSAGE] or None,
    }


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None

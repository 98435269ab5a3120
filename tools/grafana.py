"""Make docs/grafana.json, the dashboard for Grafana: a page of panels over what `/metrics` says.

Run it from the project's folder: `.venv/bin/python -m tools.grafana`. In Grafana: Dashboards, New, Import, and choose the data source.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parent.parent / "docs" / "grafana.json"
SOURCE = {"type": "prometheus", "uid": "${source}"}
WIDTH, ROW = 24, 8

# Title, kind, unit, width of 24, and the queries with their legends.
PANELS: list[tuple[str, str, str, int, list[tuple[str, str]]]] = [
    ("Critical alerts", "stat", "none", 4, [('sum(intray_alerts_open{severity="critical"})', "critical")]),
    ("Warnings", "stat", "none", 4, [('sum(intray_alerts_open{severity="warning"})', "warnings")]),
    ("Redis", "stat", "none", 4, [("intray_redis_up", "up")]),
    ("Clock", "stat", "none", 4, [("intray_clock_up", "up")]),
    ("Workers", "stat", "none", 4, [("sum(intray_workers)", "workers")]),
    ("Ledger imbalance", "stat", "none", 4, [("intray_ledger_imbalance", "jobs")]),
    ("Waiting", "timeseries", "none", 12, [('sum by (type) (intray_jobs{status="queued"})', "{{type}}")]),
    ("Oldest waiting", "timeseries", "s", 12, [("intray_oldest_waiting_seconds", "{{queue}}")]),
    ("Working", "timeseries", "none", 12, [('sum by (type) (intray_jobs{status="started"})', "{{type}}")]),
    (
        *("Accepted and ended a minute", "timeseries", "none", 12),
        [(f"60 * rate(intray_jobs_{name}_total[5m])", name) for name in ("accepted", "finished", "failed")],
    ),
    ("Done a minute", "timeseries", "none", 12, [("intray_finished_last_minute", "{{type}}")]),
    ("Failed a minute", "timeseries", "none", 12, [("intray_failed_last_minute", "{{type}}")]),
    ("Run time", "timeseries", "s", 12, [("intray_run_seconds", "{{type}} p{{percentile}}")]),
    ("Wait time", "timeseries", "s", 12, [("intray_wait_seconds", "{{type}} p{{percentile}}")]),
    ("Jobs by status", "timeseries", "none", 12, [("sum by (status) (intray_jobs)", "{{status}}")]),
    ("Messages in Redis", "timeseries", "none", 12, [("intray_messages", "{{queue}}")]),
    ("Workers by state", "timeseries", "none", 8, [("intray_workers", "{{state}}")]),
    ("Children by state", "timeseries", "none", 8, [("intray_children", "{{state}}")]),
    ("Deliveries of webhooks", "timeseries", "none", 8, [("intray_webhook_deliveries", "{{state}}")]),
    (
        *("Language model today", "timeseries", "currencyUSD", 8),
        [("intray_llm_spent_today_usd", "spent"), ("intray_llm_budget_usd > 0", "budget")],
    ),
    ("Tokens today", "timeseries", "none", 8, [("intray_llm_tokens_today", "{{direction}}")]),
    ("Held back", "timeseries", "none", 8, [("intray_paused", "paused {{scope}}"), ("intray_breaker_open == 1", "parked for {{name}}")]),
    ("Deleted for age a minute", "timeseries", "none", 8, [("60 * rate(intray_jobs_pruned_total[5m])", "pruned")]),
]


def dashboard() -> dict[str, Any]:
    return {
        "id": None,
        "uid": "intray",
        "title": "Intray",
        "tags": ["intray"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "templating": {"list": [{"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}}]},
        "panels": list(_panels()),
    }


def _panels() -> Iterator[dict[str, Any]]:
    """From left to right, in rows."""
    x = y = previous = 0
    for number, (title, kind, unit, width, queries) in enumerate(PANELS, 1):
        height = ROW // 2 if kind == "stat" else ROW
        if x + width > WIDTH:
            x, y = 0, y + previous
        yield {
            "id": number,
            "title": title,
            "type": kind,
            "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": width, "h": height},
            "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
            "options": {},
            "targets": [
                {"refId": chr(65 + place), "expr": expression, "legendFormat": legend, "datasource": SOURCE}
                for place, (expression, legend) in enumerate(queries)
            ],
        }
        x, previous = x + width, height


if __name__ == "__main__":
    FILE.write_text(json.dumps(dashboard(), indent=1) + "\n")

"""Reads the ledger and Redis: why a job waits, workers, counts, history, alerts, numbers for `/metrics`.
The clock, `monolith.web`, `monolith.jobs` and `monolith.queue_admin` call it.
It must not import Flask, `monolith.runner.scheduler`, or anything above the runner."""

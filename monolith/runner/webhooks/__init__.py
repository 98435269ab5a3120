"""Outgoing webhooks in the format of Standard Webhooks 1.0, and e-mails about jobs: endpoints, secrets, outbox, deliveries.
The clock, the worker, `monolith.runner.admin`, `monolith.documents` and `monolith.jobs` call it.
It must not import Flask, or any part of the runner but `queue`, `llm`, `prefork` and `ledger`."""

"""The life of a job in SQL (submit, claim, outcomes, stop, requeue), and what is counted, searched and logged of it.
Called by the rest of `runner`, `documents`, and the blueprints for reading.
It imports `runner.queue`, `job_types` and what stands below; never `webhooks`, `worker`, `admin`, `monitoring` or `scheduler`.
"""

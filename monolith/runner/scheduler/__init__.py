"""The clock and its periodic tasks: recovery, cron schedules, retention; and the inline runner, which replaces Redis and workers.
`manage.py clock`, `monolith.server` and `monolith.queue_admin` call it.
It must not import Flask, or anything above the runner."""

"""RQ's queues in Redis: pushing job ids, reading queues, stopping jobs, the Redis client. The prefork worker has its own.
The ledger, the worker, monitoring, the scheduler and the health checks call it.
It must not import anything of `monolith` but `config`, `db`, `linux` and `job_types`.
"""

"""The only access to RQ's queues and to Redis: pushing job ids, reading queues, stopping jobs, the Redis client.
The ledger, the worker, monitoring, the scheduler and the health checks call it.
It must not import anything of `monolith` but `config`, `linux` and `job_types`.
"""

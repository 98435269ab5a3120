"""A drop-in worker for RQ with long-lived children: Redis access, child processes, time limits, hooks.
`rq worker --worker-class` starts it; `monolith.runner.worker` derives Intray's own worker from it.
It must not import anything but rq, redis, the standard library and `monolith.linux`.
"""

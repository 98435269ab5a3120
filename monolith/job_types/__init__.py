"""Job types: the `@job_type` decorator, the registry of declared types, and the interface that a job function sees.
Adopters' job types import it, and everything in `monolith` that lists, validates or runs jobs.
It must not import anything of `monolith` but `errors`, `config` and `aliases`.
"""

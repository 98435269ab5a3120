"""The job types that ship with Intray: one file declares one job type with `@job_type`.
Imported by `monolith.job_types.registry.discover`, which reads `JOB_PACKAGES`; nothing in `monolith` imports them by name.
Must not import anything of `monolith` but `job_types`, `content`, `config` and `errors`."""

"""What several job types share, one package for each subject.
Called by the job types in `jobs/`, and `llm.connection_test` by `manage.py ai test`.
Must not import the job types, nor anything of `monolith` but `job_types`, `content`, `config` and `errors`."""

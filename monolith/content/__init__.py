"""Content from outside: fetches web pages, posts to endpoints, extracts text from documents, renders Markdown and formats values.
Called by the job types, the runner (webhooks, reports) and the pages.
Must not import the runner or anything above it: only `monolith.errors`, `config`, `db` and `job_types`."""

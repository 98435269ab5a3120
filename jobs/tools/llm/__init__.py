"""The client of the language model: prompts, strict answer schemas, prices and a connection test.
Called by the job types `analyze`, `enhance`, `generate_docs` and `quality_check`, and by `manage.py ai test`.
Must not import the other packages of `jobs.tools`, nor `openai` before a question is asked."""

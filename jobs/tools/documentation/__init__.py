"""Writes documentation: crawls a site, splits texts into sources, and builds the result with or without a language model.
Called by the job type `generate_docs`, and by `jobs.tools.project.source_index`.
Must not import other packages of `jobs.tools` than `analysis` and `llm`."""

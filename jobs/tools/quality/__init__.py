"""Checks applications against `quality_rules.toml`: required fields and sections, consistency, score and decision.
Called by the job type `quality_check`.
Must not import other packages of `jobs.tools` than `analysis`."""

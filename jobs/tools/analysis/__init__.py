"""Text analysis without a language model: statistics, key sentences, maturity signs, verdicts and story scores.
Called by the job types `analyze`, `enhance` and `quality_check`, and by `jobs.tools.documentation` and `jobs.tools.quality`.
Must not import the other packages of `jobs.tools`."""

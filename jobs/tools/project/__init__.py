"""Software projects: reads archives, chooses the commands to run, parses the reports of tests and linters, indexes sources.
Called by the job types `build`, `test`, `lint` and `generate_docs`.
Must not import other packages of `jobs.tools` than `sandbox` and `documentation`."""

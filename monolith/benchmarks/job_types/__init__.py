"""Job types for measuring, found with JOB_PACKAGES=jobs,monolith.benchmarks.job_types."""

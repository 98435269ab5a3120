"""Job types for measuring, found with JOB_PACKAGES=jobs,bench.job_types."""

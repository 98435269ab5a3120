"""Runs untrusted commands in a bubblewrap sandbox with limits on memory, CPU, processes, disk and time.
Called by the job types `build`, `test` and `lint`, and by `jobs.tools.project`, which unpacks into its work directories.
Must not import the other packages of `jobs.tools`."""

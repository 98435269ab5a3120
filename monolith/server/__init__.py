"""The processes of an installation: `make run`, the web server, the bundled Redis, and the checks of `manage.py doctor`.
`manage.py` calls it.
It must not be imported by anything else."""

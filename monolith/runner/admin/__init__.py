"""What admins do to many jobs: filter, bulk actions, the trash, deletion, error groups and their retries, the audit log.
Called by `queue_admin` and `documents`; the scheduler, for the trash, retention and retries.
It imports `ledger`, `queue`, `webhooks` and what stands below; never `worker`, `monitoring`, `scheduler` or Flask.
"""

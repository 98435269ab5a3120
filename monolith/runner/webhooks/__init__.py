"""Outgoing webhooks: what happened to a job, told to the addresses its owner chose. Standard Webhooks 1.0."""

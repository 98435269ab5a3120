"""The running installations of `processes.py`, for every acceptance test."""

from tests.acceptance.processes import intray, new_intray, postgresql_server, postgresql_url, redis_server
from tests.acceptance.workshop import workshop

__all__ = ["intray", "new_intray", "postgresql_server", "postgresql_url", "redis_server", "workshop"]

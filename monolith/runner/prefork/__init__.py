"""A worker for RQ whose children live long. Knows rq, redis and the standard library, nothing of Intray; see `runner.worker`."""

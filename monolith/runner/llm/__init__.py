"""What calls of a language model share: cached answers, daily budgets, circuit breakers, the connection test.
Called by `worker.context` for running jobs, `monitoring` and `queue_admin` for numbers, `doctor` for the test.
It imports `db`, `config` and `errors` only; never the ledger, RQ, or a client of a language model.
"""

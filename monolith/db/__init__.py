"""What lives here: the database engine, sessions and transactions, the tables that several rooms share, the database's clock.
Who calls it: everything above it, from `content` to `manage.py`.
It imports `config`, `errors` and `linux` only, and nothing of Flask, Redis or RQ.
"""

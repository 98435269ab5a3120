"""The database engine, sessions and transactions, the tables that several folders share, the database's clock.
Called by everything above it, from `content` to `manage.py`.
It imports `config`, `errors` and `linux` only, and nothing of Flask, Redis or RQ.
"""

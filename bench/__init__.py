"""Benchmarks, a tool for developers.

`manage.py bench` imports it when one is asked for; monolith and jobs never do, and deployed images have none.
"""

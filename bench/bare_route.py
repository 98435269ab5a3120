"""The bare route that submitting is measured against: Flask and RQ as their documentation has it, without users, checks or SQL."""

from __future__ import annotations

import os

from flask import Flask, Response, jsonify, request
from redis import Redis
from rq import Queue

app = Flask(__name__)
queue = Queue("bare", connection=Redis.from_url(os.environ.get("REDIS_URL", "redis://localhost")))


@app.post("/submit")
def submit() -> tuple[Response, int]:
    """Push a job and answer its id."""
    given = request.get_json()
    job = queue.enqueue("bench.trial_jobs.nothing.bench_nothing", given["type"])
    return jsonify(id=job.id), 202

"""`GET /api/v1/queues` and `GET /api/v1/workers`: the counts and workers of the overview page. For admins."""

from __future__ import annotations

from typing import Any

from flask.views import MethodView
from flask_smorest import Blueprint
from marshmallow import Schema, fields
from redis import RedisError

from monolith.db.engine import read_session
from monolith.errors import Unavailable
from monolith.queue_admin.pauses_api import PauseSchema
from monolith.runner.monitoring import queue_counts, workers
from monolith.web.openapi import ProblemSchema
from monolith.web.public_address import own_path
from monolith.web.schemas import ListSchema, Moment
from monolith.web.security import require_admin

blueprint = Blueprint("queues", __name__, description="Queues and workers, for admins")
blueprint.before_request(require_admin)


class CountsSchema(Schema):
    """The number of jobs of a queue or job type by status."""

    object = fields.Constant("type")
    name = fields.String()
    queued = fields.Integer(attribute="statuses.queued")
    scheduled = fields.Integer(attribute="statuses.scheduled")
    started = fields.Integer(attribute="statuses.started")
    finished = fields.Integer(attribute="statuses.finished")
    failed = fields.Integer(attribute="statuses.failed")
    stopped = fields.Integer(attribute="statuses.stopped")
    canceled = fields.Integer(attribute="statuses.canceled")
    oldest_waiting_s = fields.Float(allow_none=True, metadata={"description": "Seconds the oldest queued job has been waiting"})
    paused = fields.Boolean()
    pause = fields.Nested(PauseSchema, allow_none=True, metadata={"description": "The pause in effect"})


class QueueSchema(CountsSchema):
    object = fields.Constant("queue")
    types = fields.List(fields.Nested(CountsSchema))


class QueueListSchema(ListSchema):
    data = fields.List(fields.Nested(QueueSchema))


class RunningSchema(Schema):
    id = fields.String()
    type = fields.String()
    started_at = Moment()


class ChildSchema(Schema):
    pid = fields.Integer()
    memory = fields.Integer(
        allow_none=True,
        metadata={
            "description": "Memory in bytes. Where the system reports it, shared memory is divided among the processes that share it"
        },
    )
    waits = fields.Boolean(attribute="io_bound", metadata={"description": "Whether this process runs I/O-bound jobs, several at once"})
    jobs = fields.List(fields.Nested(RunningSchema))


class WorkerSchema(Schema):
    object = fields.Constant("worker")
    name = fields.String()
    host = fields.String()
    pid = fields.Integer(allow_none=True)
    state = fields.String(metadata={"description": "State as reported by RQ: idle, busy or suspended"})
    queues = fields.List(fields.String())
    born_at = Moment(allow_none=True)
    heartbeat_at = Moment(allow_none=True)
    finished = fields.Integer(metadata={"description": "Jobs done since the worker started"})
    failed = fields.Integer(metadata={"description": "Job attempts that raised an exception since the worker started"})
    memory = fields.Integer(
        attribute="total_memory", metadata={"description": "Memory of parent and children in bytes, from the last report"}
    )
    children = fields.List(fields.Nested(ChildSchema))
    running = fields.List(fields.Nested(RunningSchema), metadata={"description": "The jobs it is running, according to the database"})


class WorkerListSchema(ListSchema):
    data = fields.List(fields.Nested(WorkerSchema))


@blueprint.route("/queues")
class Queues(MethodView):
    @blueprint.response(200, QueueListSchema)
    def get(self) -> dict[str, Any]:
        """Count the jobs of each queue and job type by status."""
        with read_session() as session:
            return _list(queue_counts.by_queue(session))


@blueprint.route("/workers")
class Workers(MethodView):
    @blueprint.response(200, WorkerListSchema)
    @blueprint.alt_response(503, schema=ProblemSchema, description="Redis is not responding")
    def get(self) -> dict[str, Any]:
        """List the running workers, with the jobs and memory of each of their processes."""
        with read_session() as session:
            try:
                return _list(workers.list_workers(session))
            except RedisError as error:
                raise Unavailable("Redis is not responding, so the list of workers is not available. Try again.", retry_after=5) from error


def _list(data: list[Any]) -> dict[str, Any]:
    return {"object": "list", "data": data, "has_more": False, "url": own_path()}

"""Server-sent events of one job, or of all jobs of the user."""

from __future__ import annotations

import re

from flask import Response, request
from flask.views import MethodView
from flask_login import current_user
from flask_smorest import Blueprint

from monolith.db.engine import read_session
from monolith.documents import queries
from monolith.documents.event_stream import FROM_NOW_ON, Stream
from monolith.errors import Busy
from monolith.runner.ledger import events
from monolith.web import sse_thread
from monolith.web.openapi import ProblemSchema

RETRY_AFTER_S = 30  # when too many streams are open; pages poll in the meantime
LAST_SEEN = {
    "in": "header",
    "name": "Last-Event-ID",
    "schema": {"type": "string"},
    "description": "The id of the last event you received; the stream continues after it. Browsers send it automatically",
}
BUSY = {"schema": ProblemSchema, "description": "Too many streams are open: poll the job instead; see Retry-After"}
blueprint = Blueprint("events", __name__, description="Live updates (server-sent events)")


@blueprint.route("/jobs/<job_id>/events")
class JobEvents(MethodView):
    @blueprint.doc(parameters=[LAST_SEEN])
    @blueprint.response(200, content_type="text/event-stream")
    @blueprint.alt_response(204, description="The job is over, and you have all its events")
    @blueprint.alt_response(404, schema=ProblemSchema, description="Not found, or not yours")
    @blueprint.alt_response(503, **BUSY)
    def get(self, job_id: str) -> Response:
        """Stream the events of a job: `status` and `progress`, from its submission until it is over."""
        with read_session() as session:
            queries.job(session, current_user, job_id)
        after = _last_seen(0)
        stream = Stream(current_user.id, current_user.sees_all, job_id, after)
        first = stream.job_messages(events.of_jobs({job_id: after}))
        return Response(status=204) if stream.is_over and not first else _response(stream, first)


@blueprint.route("/events")
class Events(MethodView):
    @blueprint.doc(parameters=[LAST_SEEN])
    @blueprint.response(200, content_type="text/event-stream")
    @blueprint.alt_response(503, **BUSY)
    def get(self) -> Response:
        """Stream the events of all your jobs from now on (`ready`). After a long gap, `missed` comes first: read the lists again."""
        return _response(Stream(current_user.id, current_user.sees_all, None, _last_seen(FROM_NOW_ON)), "")


def _last_seen(default: int) -> int:
    given = request.headers.get("Last-Event-ID", "")
    return int(given) if re.fullmatch(r"\d{1,18}", given) else default


def _response(stream: Stream, first: str) -> Response:
    thread = sse_thread.current()
    if thread and not stream.is_over and not thread.has_room(stream.user_id):
        raise Busy("Too many streams are open. Poll every few seconds instead.", retry_after=RETRY_AFTER_S)
    is_chunked = request.environ.get("SERVER_PROTOCOL") == "HTTP/1.1"
    response = Response(sse_thread.body(stream, first, is_chunked), content_type="text/event-stream; charset=utf-8")
    response.headers["Cache-Control"] = "no-store"
    response.headers["Connection"] = "close"  # the SSE thread ends it with the stream
    response.headers["X-Accel-Buffering"] = "no"  # nginx would buffer it
    return response

"""The tables that several folders share. Times are seconds since 1970 (UTC) by the database's clock."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, LargeBinary, String, Text, false, text
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, deferred, mapped_column, relationship

from monolith.db.engine import now

OVER = ("finished", "failed", "stopped", "canceled")
STATUSES = ("queued", "scheduled", "started", *OVER)
LIVE = text("status IN ('queued', 'scheduled', 'started')")  # as text: with parameters, no partial index is used
IN_TRASH, NOT_IN_TRASH = text("trash_id IS NOT NULL"), text("trash_id IS NULL")
ONE_LIVE = text(f"is_unique AND {LIVE}")
HELD = text("held_by IS NOT NULL")
WITH_ERROR_GROUP, IN_REQUEUE = text("error_group IS NOT NULL AND trash_id IS NULL"), text("requeue_id IS NOT NULL")

SCOPES = ("read", "submit", "admin")  # of API tokens; each includes those before it
MARK = "mark."  # prefix of the events that job functions write themselves


def new_id() -> str:
    """A random UUID as text."""
    return str(uuid.uuid4())


def rq_queue_of(queue: Any, priority: Any) -> Any:
    """The name of the RQ queue, `<queue>.<priority>`, that the id of such a job is pushed to; of two texts or two SQL columns."""
    return queue + "." + priority


class Base(DeclarativeBase):
    type_annotation_map = {dict[str, Any]: JSON, list[str]: JSON}


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    password_hash: Mapped[str] = mapped_column(String(255))
    is_admin: Mapped[bool] = mapped_column(default=False)
    is_viewer: Mapped[bool] = mapped_column(default=False, server_default=false())  # sees everything, changes nothing
    created_at: Mapped[float] = mapped_column(default=now())
    mail_failed: Mapped[bool] = mapped_column(default=False, server_default=false())  # an e-mail for each job that ends so
    mail_done: Mapped[bool] = mapped_column(default=False, server_default=false())
    mail_since: Mapped[float | None]  # only for jobs that ended later

    @property
    def sees_all(self) -> bool:
        """Whether the user sees other people's documents and jobs, and the admin pages."""
        return self.is_admin or self.is_viewer

    # The interface of Flask-Login.
    is_authenticated = True
    is_active = True
    is_anonymous = False

    def get_id(self) -> str:
        return str(self.id)


class Token(Base):
    """An API token. Only its hash is stored; its owner recognises it by the prefix."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(100))
    prefix: Mapped[str] = mapped_column(String(16))
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    scope: Mapped[str] = mapped_column(String(10), default="admin", server_default="admin")
    created_at: Mapped[float] = mapped_column(default=now())
    expires_at: Mapped[float | None]
    last_used_at: Mapped[float | None]

    user: Mapped[User] = relationship(lazy="joined")


class Document(Base):
    """A submitted document. The `content` of a web page is NULL until a worker has fetched it."""

    __tablename__ = "documents"

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(String(300))
    kind: Mapped[str] = mapped_column(String(20))
    tags: Mapped[list[str]] = mapped_column(default=list)
    media_type: Mapped[str] = mapped_column(String(100))
    filename: Mapped[str | None] = mapped_column(String(255))
    size: Mapped[int] = mapped_column(default=0)
    sha256: Mapped[str | None] = mapped_column(String(64))
    source_url: Mapped[str | None] = mapped_column(String(2048))
    content: Mapped[bytes | None] = deferred(mapped_column(LargeBinary))
    route: Mapped[str | None] = mapped_column(String(20))  # route, decision and score are those of the last job that decided
    decision: Mapped[str | None] = mapped_column(String(20))
    score: Mapped[int | None]
    is_defaulted: Mapped[bool] = mapped_column(default=False, server_default=false())  # the decision is a default, because none was reached
    created_at: Mapped[float] = mapped_column(default=now())

    jobs: Mapped[list[Job]] = relationship(
        primaryjoin="and_(Job.document_id == Document.id, Job.trash_id.is_(None))",
        back_populates="document",
        order_by="Job.created_at",
        passive_deletes=True,
    )

    __table_args__ = (
        Index("documents_of_owner", "owner_id", "created_at", "id"),
        Index("documents_of_content", "owner_id", "sha256", "created_at", "id"),
    )

    def may_be_seen_by(self, user: User) -> bool:
        return user.sees_all or self.owner_id == user.id


class Job(Base):
    """A job: the row in the ledger is the truth about it before, during and after its run."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    document_id: Mapped[str | None] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"), index=True)
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"), index=True)
    type: Mapped[str] = mapped_column(String(60))
    queue: Mapped[str] = mapped_column(String(60))
    priority: Mapped[str] = mapped_column(String(10))
    params: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(String(10))
    preview: Mapped[dict[str, Any] | None] = mapped_column(
        JSON(none_as_null=True)
    )  # the part of the result that was known at the submission
    progress: Mapped[float | None]
    progress_note: Mapped[str | None] = mapped_column(String(200))
    snooze_reason: Mapped[str | None] = mapped_column(String(300))
    result: Mapped[dict[str, Any] | None] = deferred(mapped_column(JSON(none_as_null=True)))
    error_type: Mapped[str | None] = mapped_column(String(100))
    error_message: Mapped[str | None] = mapped_column(Text)
    error_trace: Mapped[str | None] = deferred(mapped_column(Text))
    error_group: Mapped[str | None] = mapped_column(String(16))  # key of its error group: `ledger.error_fingerprint`
    attempt: Mapped[int] = mapped_column(default=0)
    claims: Mapped[int] = mapped_column(default=0)  # never decreases, so it exposes a stale outcome where `attempt` cannot
    max_attempts: Mapped[int]
    interruptions: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)  # the interruptions in which the worker died
    worker: Mapped[str | None] = mapped_column(String(120))
    request_id: Mapped[str | None] = mapped_column(String(64))
    content_key: Mapped[str | None] = mapped_column(String(64))  # equal for equal owner, type, params and content
    is_unique: Mapped[bool] = mapped_column(default=False, server_default=false())
    input_tokens: Mapped[int] = mapped_column(default=0)
    output_tokens: Mapped[int] = mapped_column(default=0)
    usd: Mapped[float] = mapped_column(default=0.0)
    created_at: Mapped[float] = mapped_column(default=now())
    queued_at: Mapped[float | None]
    run_at: Mapped[float | None]  # scheduled: when it is due; started: when it is taken from its silent worker (`lifecycle.give_notice`)
    started_at: Mapped[float | None]
    heartbeat_at: Mapped[float | None]
    ended_at: Mapped[float | None]
    trash_id: Mapped[int | None]  # while the job is in the trash: the row of `trash` it belongs to
    requeue_id: Mapped[int | None]  # the retry of an error group that requeued it last
    held_by: Mapped[str | None] = mapped_column(String(100))  # the limit that the job waits for: `ledger.limits`
    held_since: Mapped[float | None]  # when it was queued first: its place among those that wait for the limit

    owner: Mapped[User] = relationship(viewonly=True)
    document: Mapped[Document | None] = relationship(back_populates="jobs")
    artefacts: Mapped[list[Artefact]] = relationship(order_by="Artefact.name", passive_deletes=True)
    events: Mapped[list[JobEvent]] = relationship(order_by="JobEvent.id", passive_deletes=True)

    __table_args__ = (
        Index("jobs_of_owner", "owner_id", "created_at", "id"),
        Index("jobs_by_age", "created_at", "id"),
        Index(
            "jobs_waiting",
            "queue",
            "priority",
            "queued_at",
            "id",
            "type",
            "owner_id",
            sqlite_where=text("status = 'queued'"),
            postgresql_where=text("status = 'queued'"),
        ),
        Index("jobs_due", "run_at", sqlite_where=text("status = 'scheduled'"), postgresql_where=text("status = 'scheduled'")),
        Index("jobs_running", "heartbeat_at", sqlite_where=text("status = 'started'"), postgresql_where=text("status = 'started'")),
        Index("jobs_by_status", "status", "type", "ended_at", "trash_id"),
        Index("jobs_live", "owner_id", sqlite_where=LIVE, postgresql_where=LIVE),
        Index("one_live_job_of_content", "content_key", unique=True, sqlite_where=ONE_LIVE, postgresql_where=ONE_LIVE),
        Index("jobs_counted", "status", "queue", "type", sqlite_where=NOT_IN_TRASH, postgresql_where=NOT_IN_TRASH),
        Index("jobs_in_trash", "trash_id", sqlite_where=IN_TRASH, postgresql_where=IN_TRASH),
        Index("jobs_listed", "status", "type", "created_at", "id", sqlite_where=NOT_IN_TRASH, postgresql_where=NOT_IN_TRASH),
        Index(
            "jobs_by_error_group",
            "error_group",
            "status",
            "type",
            "ended_at",
            sqlite_where=WITH_ERROR_GROUP,
            postgresql_where=WITH_ERROR_GROUP,
        ),
        Index("jobs_in_requeue", "requeue_id", "status", sqlite_where=IN_REQUEUE, postgresql_where=IN_REQUEUE),
        Index("jobs_held", "held_by", "status", "priority", "owner_id", "held_since", sqlite_where=HELD, postgresql_where=HELD),
    )

    @property
    def is_over(self) -> bool:
        return self.status in OVER

    def may_be_seen_by(self, user: User) -> bool:
        return user.sees_all or self.owner_id == user.id

    @hybrid_property
    def rq_queue(self) -> str:
        """The name of its RQ queue; `Job.rq_queue` is the same as an SQL expression."""
        name: str = rq_queue_of(self.queue, self.priority)
        return name


class JobEvent(Base):
    """One event in the life of a job, as in the timeline of its page."""

    __tablename__ = "job_events"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    at: Mapped[float] = mapped_column(default=now())
    name: Mapped[str] = mapped_column(String(20))
    attempt: Mapped[int]
    note: Mapped[str | None] = mapped_column(Text)

    __table_args__ = {"sqlite_autoincrement": True}  # an id is never reused: `webhooks.outbox` relies on that


class Artefact(Base):
    """A file that a job attached. In SQL, because web and worker may share no disk."""

    __tablename__ = "artefacts"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(200))
    media_type: Mapped[str] = mapped_column(String(100))
    size: Mapped[int]
    content: Mapped[bytes] = deferred(mapped_column(LargeBinary, nullable=False))

    __table_args__ = (Index("artefact_of_job", "job_id", "name", unique=True),)


class Lease(Base):
    """The lease of a task that only one process may do at a time: its holder, and until when."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    holder: Mapped[str] = mapped_column(String(120))
    expires_at: Mapped[float]
    periodic_tasks: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))  # their state, as last reported by the holder
    periodic_tasks_at: Mapped[float | None]


class Tally(Base):
    """How many jobs one transaction accepted or pruned. Rows are never updated, so no submission waits for another.

    `ledger.balance` compares them with the rows of `jobs`.
    """

    __tablename__ = "tallies"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    amount: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[float] = mapped_column(default=now())


class Sample(Base):
    """One minute of a job type: how many jobs were waiting or running at its end, how many ended in it, and their mean times."""

    __tablename__ = "samples"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float] = mapped_column(index=True)
    queue: Mapped[str] = mapped_column(String(60))
    type: Mapped[str] = mapped_column(String(60))
    queued: Mapped[int] = mapped_column(default=0)
    scheduled: Mapped[int] = mapped_column(default=0)
    started: Mapped[int] = mapped_column(default=0)
    finished: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    oldest_waiting_s: Mapped[float | None]
    mean_wait_s: Mapped[float | None]
    mean_run_s: Mapped[float | None]


class IdempotencyKey(Base):
    """An idempotency key of a user, and the `ids` of the documents and jobs that its request created."""

    __tablename__ = "idempotency_keys"

    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    ids: Mapped[dict[str, Any]]
    created_at: Mapped[float] = mapped_column(default=now())

    __table_args__ = (Index("idempotency_keys_by_age", "created_at"),)


class LlmAnswer(Base):
    """A cached answer; see `llm.cache`. While a job is making it, `answer` is NULL."""

    __tablename__ = "llm_answers"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    answer: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    maker: Mapped[str] = mapped_column(String(36))
    created_at: Mapped[float] = mapped_column(default=now())
    expires_at: Mapped[float]

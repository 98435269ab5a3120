"""The tables of outgoing webhooks."""

from __future__ import annotations

from urllib.parse import urlsplit

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, Text, false, text
from sqlalchemy.orm import Mapped, mapped_column, relationship, validates

from monolith.db.engine import now
from monolith.db.models import Base, User, new_id

ENDINGS = {"finished": "job.finished", "failed": "job.failed", "stopped": "job.stopped", "canceled": "job.canceled"}
PROGRESS = "job.progress"
EVENTS = (PROGRESS, *ENDINGS.values())
TEST_EVENT = "webhook.test"
STATES = ("waiting", "sending", "delivered", "failed")
HOST_LENGTH = 260
_ONE_SHARED = text("is_shared")
_PENDING = text("state IN ('waiting', 'sending')")


class SigningSecret(Base):
    """An encrypted secret that signs deliveries; for a while after a rotation, the previous one signs too.

    Each endpoint has its own. The shared one of a user signs deliveries to the `webhook_url` of single jobs.
    """

    __tablename__ = "signing_secrets"

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    is_shared: Mapped[bool] = mapped_column(default=False, server_default=false())
    sealed: Mapped[str] = mapped_column(Text)
    previous: Mapped[str | None] = mapped_column(Text)
    previous_until: Mapped[float | None]

    __table_args__ = (Index("one_shared_secret", "owner_id", unique=True, sqlite_where=_ONE_SHARED, postgresql_where=_ONE_SHARED),)


class Webhook(Base):
    """An endpoint that receives deliveries. With a `job_id`, it receives events of that job only.

    `job_id` is no foreign key, because pruning a job must not delete its pending deliveries.
    """

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    job_id: Mapped[str | None] = mapped_column(String(36), index=True)
    secret_id: Mapped[str] = mapped_column(ForeignKey("signing_secrets.id"), index=True)
    url: Mapped[str] = mapped_column(String(2048))
    host: Mapped[str | None] = mapped_column(String(HOST_LENGTH))  # of the URL, with its port
    events: Mapped[list[str]]
    disabled_at: Mapped[float | None]
    disabled_reason: Mapped[str | None] = mapped_column(String(300))
    failing_since: Mapped[float | None]
    listening_since: Mapped[float] = mapped_column(default=now())  # earlier events are not sent
    created_at: Mapped[float] = mapped_column(default=now())

    secret: Mapped[SigningSecret] = relationship()
    owner: Mapped[User] = relationship()

    __table_args__ = (Index("webhooks_of_owner", "owner_id", "created_at", "id"),)

    @validates("url")
    def _set_host(self, _: str, url: str) -> str:
        self.host = _host_of(url)
        return url

    @property
    def enabled(self) -> bool:
        """Whether deliveries are sent to it."""
        return self.disabled_at is None


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).netloc.lower()[:HOST_LENGTH]
    except ValueError:  # ALERT_WEBHOOK_URL is not validated; the delivery says what is wrong with it
        return url[:HOST_LENGTH]


class Delivery(Base):
    """One message to one endpoint. Its id is the `webhook-id` header, the same at every attempt, so receivers recognise repeats."""

    __tablename__ = "webhook_deliveries"

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    type: Mapped[str] = mapped_column(String(20))
    job_id: Mapped[str | None] = mapped_column(String(36), index=True)
    body: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(10), default="waiting")
    sender_id: Mapped[str | None] = mapped_column(String(36))  # the job that sends it now, with others
    attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[float | None] = mapped_column(default=now())
    response_status: Mapped[int | None]
    response_text: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(String(300))
    duration: Mapped[float | None]
    attempted_at: Mapped[float | None]
    created_at: Mapped[float] = mapped_column(default=now())

    webhook: Mapped[Webhook] = relationship()

    __table_args__ = (
        Index("deliveries_of_webhook", "webhook_id", "created_at", "id"),
        Index("deliveries_pending", "state", "due_at", sqlite_where=_PENDING, postgresql_where=_PENDING),
        Index("deliveries_by_age", "created_at"),
    )


class Bookmark(Base):
    """The position up to which the events have been read, and when."""

    __tablename__ = "bookmarks"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"))
    at: Mapped[float] = mapped_column(default=now())

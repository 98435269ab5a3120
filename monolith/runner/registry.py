"""Job types: what one declares, and how all of them are found.

A job type is a plain function in one file of `jobs/`. `@job_type` writes its declaration down and hands the function
back untouched; a wrong declaration fails at import. Everything else (form, API, validation, retries, docs) is derived.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from typing import Any, Protocol

from marshmallow import Schema, ValidationError

from monolith.config import settings
from monolith.errors import FieldError, Invalid, Later, Permanent
from monolith.runner.backoff import Backoff, exponential, fixed

__all__ = ["Document", "Job", "JobType", "Later", "Permanent", "exponential", "fixed", "job_type"]


class Document(Protocol):
    """The document a job works on, as its function sees it."""

    id: str
    title: str
    kind: str
    media_type: str
    filename: str | None
    source_url: str | None
    content: bytes | None

    @property
    def text(self) -> str:
        """The readable text, extracted (and fetched, for a page) when first asked. Raises `Permanent` if there is none."""

    def keep(self, content: bytes, media_type: str, title: str | None) -> None:
        """Store what was fetched from `source_url`, so that it can be downloaded and is fetched once."""


class Delivery(Protocol):
    """What one endpoint is to be told, as the job that sends it sees it."""

    id: str  # the same on every attempt
    type: str
    url: str
    body: str
    secrets: list[str]
    timestamp: int  # of this attempt, by the database's clock
    attempts: int  # before this one
    failing_s: float  # how long the endpoint has been failing
    owner_email: str

    def record(self, *, is_delivered: bool, again_in: float | None = None, disable: str | None = None, **told: Any) -> bool:
        """Write down what came of this attempt, and when the next one is; `disable` says why the endpoint gets nothing more.

        told: response_status, response_text, error, duration. True when the endpoint was disabled by this.
        """


class Job(Protocol):
    """A running job, as its function sees it."""

    id: str
    type: str
    attempt: int
    document: Document | None

    def progress(self, percent: float | None, note: str) -> None:
        """Say how far the job is: 0..100, or None when the total is unknown, and the name of the step."""

    def attach(self, name: str, content: bytes, media_type: str) -> None:
        """Keep a file with the job. It is stored with the result, in one transaction."""

    def follow_up(self, type: str, params: dict[str, Any], *, priority: str = "normal", delay: float = 0) -> None:
        """Submit another job when this one finishes, in the same transaction as its result."""

    def delivery(self, delivery_id: str) -> Delivery | None:
        """What a webhook is to be told by this job. None when it is no longer this job's to send."""

    def spent(self, *, input_tokens: int, output_tokens: int, usd: Decimal) -> None:
        """Add to what this job cost at an LLM, and its owner today."""

    def over_budget(self) -> Later | None:
        """Why this job may spend nothing more at an LLM today, as what parks it until it may; None while it may."""

    def calling(self, server: str, within_s: float) -> AbstractContextManager[None]:
        """Around one call of a server that many jobs need. `Later` raised within, or a few `ConnectionError`s in a row, park all
        those jobs for as long; then one is let through, for `within_s` seconds at most, and the others when it had an answer."""

    def mark(self, name: str, note: str, *, happened: bool = False) -> None:
        """Write down at once, in the timeline, that the job has come to a step which must not be repeated blindly.

        It outlives this attempt: see `marks`. Write what is about to be done outside before, and what came of it after, with
        `happened`: then it is written even when the job was stopped or given to another worker meanwhile.
        """

    def marks(self) -> list[tuple[str, str]]:
        """Every mark that this job has made in any of its attempts, in order: name and note."""

    def once(self, key: str, kept_s: float, made_within_s: float, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `make` gives for this key, made by one job at a time and kept `kept_s` seconds for all that ask the same.

        `made_within_s`: how long making it takes at most; a job waits no longer for another's.
        """


class Submitter(Protocol):
    """Who asks for a job."""

    is_admin: Any


JobFunction = Callable[[Any, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class JobType:
    """One declared job type. `alternatives` are params of which one may stand in for the document."""

    name: str
    title: str
    description: str
    function: JobFunction
    queue: str
    params: type[Schema]
    takes: str
    alternatives: tuple[str, ...]
    max_attempts: int
    backoff: Backoff
    timeout: int
    available: Callable[[], str | None]
    waits: bool | Callable[[], bool] = False
    submittable_by: str = "anyone"

    @property
    def mostly_waits(self) -> bool:
        return self.waits() if callable(self.waits) else self.waits

    @property
    def unavailable_reason(self) -> str | None:
        return self.available()

    def may_be_submitted_by(self, user: Submitter) -> bool:
        """Whether the user may ask for it. What follows from another job is not asked for by a user."""
        return self.submittable_by == "anyone" or (self.submittable_by == "admin" and user.is_admin)

    @property
    def is_internal(self) -> bool:
        """Whether Intray alone submits it: people do not see it among their jobs."""
        return self.submittable_by == "nobody"

    def load_params(self, params: Any, has_document: bool, pointer: str = "/params") -> dict[str, Any]:
        """The params, validated. Raises `Invalid` naming each wrong field."""
        try:
            loaded: dict[str, Any] = _schema(self.params).load({} if params is None else params)
        except ValidationError as error:
            raise Invalid("Some params are wrong.", errors=field_errors(error.messages, pointer)) from error
        self._require_input(loaded, has_document, pointer)
        return loaded

    def _require_input(self, params: dict[str, Any], has_document: bool, pointer: str) -> None:
        if self.takes != "document" or has_document or any(params.get(name) for name in self.alternatives):
            return
        choices = ["document_id", *(f"params.{name}" for name in self.alternatives)]
        raise Invalid.field(f"{pointer.removesuffix('/params')}/document_id", f"{self.name} needs input: give {' or '.join(choices)}.")


@cache
def _schema(params: type[Schema]) -> Schema:
    """Made once: making a schema takes longer than reading with it."""
    return params()


def field_errors(messages: Any, pointer: str) -> list[FieldError]:
    """Marshmallow's nested messages as a flat list, each with the JSON pointer of its field."""
    if isinstance(messages, dict):
        return [error for key, value in messages.items() for error in field_errors(value, _step(pointer, key))]
    return [FieldError(str(message), pointer) for message in (messages if isinstance(messages, list) else [messages])]


def _step(pointer: str, key: Any) -> str:
    return pointer if key == "_schema" else f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}"


_declared: dict[str, JobType] = {}


def job_type(
    *,
    params: type[Schema],
    queue: str = "default",
    takes: str = "document",
    alternatives: tuple[str, ...] = (),
    max_attempts: int = 3,
    backoff: Backoff = exponential(2),
    timeout: int = 60,
    available: Callable[[], str | None] = lambda: None,
    waits: bool | Callable[[], bool] = False,
    submittable_by: str = "anyone",
) -> Callable[[JobFunction], JobFunction]:
    """Declare the decorated function as a job type; it is handed back untouched.

    takes: "document" or "nothing". alternatives: params of which one may be given instead of a document.
    max_attempts: tries in all. timeout: seconds one attempt may run. available: says why the type is off here, or None.
    waits: it mostly waits for a network, and runs in a thread beside others of that kind: its libraries must be fit for threads.
    A function says so for types that wait only where something is set up.
    submittable_by: "anyone", or "admin" for what ordinary users get as a follow-up of other jobs only, such as mail, or "nobody":
    Intray alone submits it, and people do not see it among their jobs.
    The first line of the docstring is the title, the whole of it the description; the function's name is the type's.
    Raises ValueError when the declaration is wrong.
    """

    def declare(function: JobFunction) -> JobFunction:
        title, description = _words(function)
        declared = JobType(
            function.__name__,
            title,
            description,
            function,
            queue,
            params,
            takes,
            alternatives,
            max_attempts,
            backoff,
            timeout,
            available,
            waits,
            submittable_by,
        )
        _check(declared)
        _declared[declared.name] = replace(declared, **_overrides(declared))
        return function

    return declare


def _words(function: JobFunction) -> tuple[str, str]:
    description = inspect.getdoc(function) or ""
    return description.partition("\n")[0].rstrip("."), description


def _check(declared: JobType) -> None:
    wrong = {
        "its name must be lower case words joined by _": not re.fullmatch(r"[a-z][a-z0-9_]*", declared.name),
        "its function needs a docstring: it is the documentation": not declared.title,
        "its queue must be lower case letters, digits and _": not re.fullmatch(r"[a-z][a-z0-9_]*", declared.queue),
        "takes must be 'document' or 'nothing'": declared.takes not in ("document", "nothing"),
        "alternatives must be names of its params": not set(declared.alternatives) <= set(declared.params().fields),
        "submittable_by must be 'anyone', 'admin' or 'nobody'": declared.submittable_by not in ("anyone", "admin", "nobody"),
        "max_attempts must be 1 or more": declared.max_attempts < 1,
        "timeout must be 1 second or more": declared.timeout < 1,
        "another file declares the same name": _declared.get(declared.name, declared).function.__module__ != declared.function.__module__,
    }
    for reason, is_wrong in wrong.items():
        if is_wrong:
            raise ValueError(f"job type {declared.name}: {reason}")


def _overrides(declared: JobType) -> dict[str, Any]:
    """What the environment says of this type: `<TYPE>_MAX_ATTEMPTS`, `<TYPE>_TIMEOUT` (s), `<TYPE>_BACKOFF` (s)."""
    found = settings().overrides_of(declared.name)
    if "backoff" in found:
        found["backoff"] = Backoff(declared.backoff.kind, found["backoff"])
    return found


@cache
def discover() -> dict[str, JobType]:
    """Import every file of the packages in `JOB_PACKAGES` once; the declared job types by name, in alphabetical order."""
    for package in settings().job_packages:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            if not module.ispkg:
                importlib.import_module(f"{package}.{module.name}")
    return dict(sorted(_declared.items()))


def open_to(user: Submitter) -> dict[str, JobType]:
    """The job types that the user may submit, by name."""
    return {name: one for name, one in discover().items() if one.may_be_submitted_by(user)}


def find(name: Any, pointer: str = "/type", *, user: Submitter | None = None) -> JobType:
    """The job type of this name; with a user, only one that they may submit. Raises `Invalid` with the names there are."""
    types = open_to(user) if user else discover()
    if isinstance(name, str) and name in types:
        return types[name]
    why = f"There is no job type {str(name)[:60]!r}"
    if isinstance(name, str) and name in discover():
        who = "Intray itself" if discover()[name].is_internal else "admins only"
        why = f"Jobs of the type {name} are submitted by {who}, or follow from other jobs"
    raise Invalid.field(pointer, f"{why}. Choose one of: {', '.join(types)}.")

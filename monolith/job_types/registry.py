"""The `@job_type` decorator and the registry of the declared job types.

A job type is a plain function in one file of `jobs/`. `@job_type` registers its declaration and returns the function
unchanged; an invalid declaration fails at import. Form, API, validation, retries and docs are derived from it.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from marshmallow import Schema

from monolith import aliases
from monolith import rate as rates
from monolith.config import PRIORITIES, settings
from monolith.errors import Invalid, Permanent, Snooze
from monolith.job_types.backoff import Backoff, exponential, fixed
from monolith.job_types.interface import Delivery, Document, FailedJob, Job, Ledger, LedgerRow, SubmittedDocument, Submitter
from monolith.job_types.validation import load_fields
from monolith.rate import Rate

__all__ = [
    "PRIORITIES",
    "Automatic",
    "Delivery",
    "Document",
    "FailedJob",
    "Job",
    "JobType",
    "Ledger",
    "LedgerRow",
    "Permanent",
    "Snooze",
    "SubmittedDocument",
    "exponential",
    "fixed",
    "job_type",
]
JobFunction = Callable[[Any, dict[str, Any]], dict[str, Any]]
PreviewFunction = Callable[[dict[str, Any], SubmittedDocument | None], dict[str, Any] | None]


@dataclass(frozen=True)
class Automatic:
    """Which documents get the job automatically when they are submitted: those of these kinds, with this priority and delay (s)."""

    kinds: tuple[str, ...]
    priority: str = "normal"
    delay: float = 0

    def __post_init__(self) -> None:
        if not self.kinds or self.priority not in PRIORITIES or not 0 <= self.delay < math.inf:
            raise ValueError(f"automatic needs document kinds, a delay of 0 or more, and one of the priorities {', '.join(PRIORITIES)}")


@dataclass(frozen=True)
class JobType:
    """One declared job type; the parameters of `job_type` say what its fields mean."""

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
    io_bound: bool | Callable[[], bool] = False
    submittable_by: str = "anyone"
    highest_priority: str | None = None
    automatic: Automatic | None = None
    preview: PreviewFunction | None = None
    identity: Callable[[dict[str, Any]], Any] | None = None
    on_failure: Callable[[FailedJob], None] | None = None
    max_running: int = 0
    max_running_per_user: int = 0
    rate: Rate | None = None
    rate_per_user: Rate | None = None

    @property
    def is_io_bound(self) -> bool:
        return self.io_bound() if callable(self.io_bound) else self.io_bound

    @property
    def unavailable_reason(self) -> str | None:
        """Why the type cannot run in this installation; None when it can."""
        return self.available()

    def may_be_submitted_by(self, user: Submitter) -> bool:
        """Whether the user may submit it directly. Follow-ups of other jobs are not checked."""
        return self.submittable_by == "anyone" or (self.submittable_by == "admin" and user.is_admin)

    def priorities_for(self, user: Submitter) -> tuple[str, ...]:
        """The priorities that the user may submit it with, the most urgent first. Automatic jobs and follow-ups are not checked."""
        if user.is_admin:
            return PRIORITIES
        return PRIORITIES[PRIORITIES.index(self.highest_priority or settings().highest_priority) :]

    @property
    def is_internal(self) -> bool:
        """Whether only Intray submits it, so users do not see it among their jobs."""
        return self.submittable_by == "nobody"

    def load_params(self, params: Any, has_document: bool, pointer: str = "/params") -> dict[str, Any]:
        """The params, validated. Raises `Invalid` with an error for each invalid field."""
        loaded = load_fields(_schema(self.params), {} if params is None else params, pointer, "Some parameters are not valid.")
        if self.takes == "document" and not has_document and not any(loaded.get(name) for name in self.alternatives):
            choices = " or ".join(["document_id", *(f"params.{name}" for name in self.alternatives)])
            raise Invalid.field(f"{pointer.removesuffix('/params')}/document_id", f"{self.name} needs input. Give {choices}.")
        return loaded


@cache
def _schema(params: type[Schema]) -> Schema:
    """The schema as an object, created once: creating it takes longer than using it."""
    return params()


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
    io_bound: bool | Callable[[], bool] = False,
    submittable_by: str = "anyone",
    highest_priority: str | None = None,
    automatic: Automatic | None = None,
    preview: PreviewFunction | None = None,
    identity: Callable[[dict[str, Any]], Any] | None = None,
    on_failure: Callable[[FailedJob], None] | None = None,
    max_running: int = 0,
    max_running_per_user: int = 0,
    rate: str = "",
    rate_per_user: str = "",
    **former: Any,
) -> Callable[[JobFunction], JobFunction]:
    """Register the decorated function as a job type, and return it unchanged. Its name is the type's name.

    The first line of its docstring is the title, the whole docstring the description.

    - params: the schema of its parameters.
    - queue: the base name of its RQ queues.
    - takes: "document" or "nothing". alternatives: params of which one may be given instead of a document.
    - max_attempts: attempts in all. backoff: the delay between them. timeout: seconds that one attempt may run.
    - available: returns why the type cannot run in this installation, or None.
    - io_bound: it mostly waits for a network and runs in a thread beside other such jobs, so it must be thread-safe. A function
      decides this when it depends on the settings.
    - submittable_by: "anyone"; "admin" for types that other users get as a follow-up of other jobs only, such as mail; or "nobody":
      only Intray submits it, and users do not see it among their jobs.
    - highest_priority: the highest priority that users who are no admins may submit it with, instead of `HIGHEST_PRIORITY`.
    - automatic: which kinds of documents get it when they are submitted.
    - preview: computes, in milliseconds, what the answer to the submission shows.
    - identity: which of the params make two jobs the same. Submitting the same again, as the same owner, returns the first job.
    - on_failure: called when the job has failed for good, for at most 5 s. It may be called twice, and must change nothing outside.
    - max_running: how many of its jobs may run at once; max_running_per_user: how many of one user. 0: no limit.
    - rate: how many of its jobs may start, such as "60/m", "10/s" or "1000/h"; rate_per_user: how many of one user.
      Jobs over a limit or rate wait, in order, without spending an attempt.

    Raises ValueError for an invalid declaration.
    """

    for name, now in (("waits", "io_bound"), ("at_once", "preview")):  # the names until 0.9
        if name in former:
            aliases.warn(f"job_type({name}=...)", f"job_type({now}=...)")
    io_bound, preview = former.pop("waits", io_bound), former.pop("at_once", preview)
    if former:
        raise TypeError(f"job_type() got an unexpected keyword argument {next(iter(former))!r}")

    def declare(function: JobFunction) -> JobFunction:
        description = inspect.getdoc(function) or ""
        declared = JobType(
            name=function.__name__,
            title=description.partition("\n")[0].rstrip("."),
            description=description,
            function=function,
            queue=queue,
            params=params,
            takes=takes,
            alternatives=alternatives,
            max_attempts=max_attempts,
            backoff=backoff,
            timeout=timeout,
            available=available,
            io_bound=io_bound,
            submittable_by=submittable_by,
            highest_priority=highest_priority,
            automatic=automatic,
            preview=preview,
            identity=identity,
            on_failure=on_failure,
            max_running=max_running,
            max_running_per_user=max_running_per_user,
            rate=_rate(function.__name__, "rate", rate),
            rate_per_user=_rate(function.__name__, "rate_per_user", rate_per_user),
        )
        _check(declared)
        overrides = settings().overrides_of(declared.name)  # <TYPE>_MAX_ATTEMPTS, <TYPE>_TIMEOUT (s), <TYPE>_RATE and the like
        if "backoff" in overrides:
            overrides["backoff"] = Backoff(backoff.kind, overrides["backoff"])
        _declared[declared.name] = replace(declared, **overrides)
        return function

    return declare


def _rate(job_type: str, name: str, text: str) -> Rate | None:
    try:
        return rates.parse_optional(text)
    except ValueError as error:
        raise ValueError(f"job type {job_type}: {name}: {error}. Write it as 60/m, 10/s or 1000/h.") from None


def _check(declared: JobType) -> None:
    wrong = {
        "its name must be lower-case words joined by _": not re.fullmatch(r"[a-z][a-z0-9_]*", declared.name),
        "its function needs a docstring, which is shown as its documentation": not declared.title,
        "its queue must be lower-case letters, digits and _": not re.fullmatch(r"[a-z][a-z0-9_]*", declared.queue),
        "takes must be 'document' or 'nothing'": declared.takes not in ("document", "nothing"),
        "alternatives must be names of its parameters": not set(declared.alternatives) <= set(declared.params().fields),
        "submittable_by must be 'anyone', 'admin' or 'nobody'": declared.submittable_by not in ("anyone", "admin", "nobody"),
        f"highest_priority must be one of {', '.join(PRIORITIES)}": declared.highest_priority not in (None, *PRIORITIES),
        "max_attempts must be 1 or more": declared.max_attempts < 1,
        "timeout must be 1 second or more": not 1 <= declared.timeout < math.inf,
        "backoff must be seconds, 0 or more": not 0 <= declared.backoff.seconds < math.inf,
        "max_running and max_running_per_user must be 0 (no limit) or more": min(declared.max_running, declared.max_running_per_user) < 0,
        "only a job type that takes a document can be automatic": declared.automatic is not None and declared.takes != "document",
        "another file declares the same name": _declared.get(declared.name, declared).function.__module__ != declared.function.__module__,
    }
    for reason, is_wrong in wrong.items():
        if is_wrong:
            raise ValueError(f"job type {declared.name}: {reason}")


@cache
def discover() -> dict[str, JobType]:
    """All job types by name, in alphabetical order. The first call imports every file of the packages in `JOB_PACKAGES`."""
    for package in settings().job_packages:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            if not module.ispkg:
                importlib.import_module(f"{package}.{module.name}")
    return dict(sorted(_declared.items()))


def open_to(user: Submitter) -> dict[str, JobType]:
    """The job types that this user may submit, by name."""
    return {name: one for name, one in discover().items() if one.may_be_submitted_by(user)}


def find(name: Any, pointer: str = "/type", *, user: Submitter | None = None) -> JobType:
    """The job type with this name; if a user is given, only one that they may submit. Raises `Invalid` that lists the choices."""
    types = open_to(user) if user else discover()
    if isinstance(name, str) and name in types:
        return types[name]
    why = f"Unknown job type {str(name)[:60]!r}"
    if isinstance(name, str) and name in discover():
        who = "Intray" if discover()[name].is_internal else "admins"
        why = f"Only {who} can submit jobs of type {name}"
    raise Invalid.field(pointer, f"{why}. Choose one of: {', '.join(types)}.")


def __getattr__(name: str) -> Any:
    former = {"Later": Snooze, "Handed": SubmittedDocument}
    if name in former:
        aliases.warn(f"monolith.job_types.registry.{name}", former[name].__name__)
        return former[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

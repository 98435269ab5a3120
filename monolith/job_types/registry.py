"""The `@job_type` decorator and the registry of the declared job types.

A job type is a plain function in one file of `jobs/`. `@job_type` registers its declaration and returns the function
unchanged; an invalid declaration fails at import. Form, API, validation, retries and docs are derived from it. The types of a
file that cannot be imported are unavailable, and the others work: see `broken_files`.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import structlog
from marshmallow import Schema, missing

from monolith import aliases
from monolith import rate as rates
from monolith.config import PRIORITIES, settings
from monolith.errors import BadSetting, Invalid, InvalidDeclaration, JobTypeMissing, Permanent, Snooze
from monolith.job_types.backoff import Backoff, exponential, fixed
from monolith.job_types.broken_files import BrokenFile, BrokenType, import_all, reason_of
from monolith.job_types.interface import Delivery, Document, FailedJob, Job, Ledger, LedgerRow, SubmittedDocument, Submitter
from monolith.job_types.validation import load_fields
from monolith.rate import Rate
from monolith.setting_rules import MAX_FIGURE

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
MAX_NAME = 60  # characters of a type's or a queue's name: the width of their columns
JobFunction = Callable[[Any, dict[str, Any]], dict[str, Any]]
PreviewFunction = Callable[[dict[str, Any], SubmittedDocument | None], dict[str, Any] | None]
log = structlog.get_logger()


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
        """Whether it runs in a thread. A function that fails means no, so that it cannot hold up the jobs of other types."""
        if not callable(self.io_bound):
            return self.io_bound
        try:
            return bool(self.io_bound())
        except (Exception, SystemExit) as error:
            log.error("io_bound_failed", type=self.name, error=reason_of(error))
            return False

    @property
    def unavailable_reason(self) -> str | None:
        """Why the type cannot run in this installation; None when it can. That it cannot be found out is a reason, too."""
        try:
            return self.available()
        except (Exception, SystemExit) as error:
            log.error("available_failed", type=self.name, error=reason_of(error))
            return f"Its function `available` fails ({type(error).__name__}). The job type's developer must fix this."

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

    def preview_of(self, params: dict[str, Any], document: SubmittedDocument | None) -> dict[str, Any] | None:
        """What its preview function computes; None if it has none, or that fails: the job itself can still succeed."""
        try:
            return self.preview(params, document) if self.preview else None
        except (Exception, SystemExit) as error:
            log.error("preview_failed", type=self.name, error=reason_of(error))
            return None

    def with_defaults(self, params: dict[str, Any]) -> dict[str, Any]:
        """The params of a stored job, with the defaults of those that this version has and the version that accepted it had not."""
        known = {one.attribute or name: one.load_default for name, one in _schema(self.params).fields.items()}
        new = {name: one for name, one in known.items() if name not in params and one is not missing}
        return {**params, **{name: one() if callable(one) else one for name, one in new.items()}}

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

    Raises `InvalidDeclaration`, a ValueError, for an invalid declaration.
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
        return rates.parse_optional(text) if isinstance(text, str) else rates.parse(repr(text))
    except ValueError as error:
        raise InvalidDeclaration(f"job type {job_type}: {name}: {error}. Write it as 60/m, 10/s or 1000/h.") from None


def _check(declared: JobType) -> None:
    wrong = {
        f"its name must be lower-case words joined by _, of at most {MAX_NAME} characters": not _is_name(declared.name),
        "its function needs a docstring, which is shown as its documentation": not declared.title,
        "its function must not be async": inspect.iscoroutinefunction(declared.function),
        f"its queue must be lower-case letters, digits and _, at most {MAX_NAME}": not _is_name(declared.queue),
        "takes must be 'document' or 'nothing'": declared.takes not in ("document", "nothing"),
        "params must be a marshmallow schema": not _is_schema(declared.params),
        "submittable_by must be 'anyone', 'admin' or 'nobody'": declared.submittable_by not in ("anyone", "admin", "nobody"),
        f"highest_priority must be one of {', '.join(PRIORITIES)}": declared.highest_priority not in (None, *PRIORITIES),
        "max_attempts must be 1 or more": not _is_figure(declared.max_attempts, 1),
        "timeout must be 1 second or more": not _is_figure(declared.timeout, 1),
        "backoff must be exponential(seconds) or fixed(seconds)": not _is_backoff(declared.backoff),
        "max_running and max_running_per_user must be 0 (no limit) or more": not (
            _is_figure(declared.max_running, 0) and _is_figure(declared.max_running_per_user, 0)
        ),
        "available, preview, identity and on_failure must be functions": not _are_functions(declared),
        "only a job type that takes a document can be automatic": declared.automatic is not None and declared.takes != "document",
        "the same name is declared elsewhere, too": _place_of(_declared.get(declared.name, declared)) != _place_of(declared),
    }
    _refuse(declared, wrong)
    fields = declared.params().fields
    _refuse(
        declared,
        {
            "alternatives must be names of its parameters": not set(declared.alternatives) <= set(fields),
            "an automatic job type needs a default for each parameter": declared.automatic is not None
            and any(one.required for one in fields.values()),
        },
    )


def _refuse(declared: JobType, wrong: dict[str, Any]) -> None:
    for reason, is_wrong in wrong.items():
        if is_wrong:
            raise InvalidDeclaration(f"job type {declared.name}: {reason}")


def _place_of(declared: JobType) -> tuple[str, int]:
    """The module and the line of its function: a file that is imported again, because it failed, declares the same again."""
    code = getattr(inspect.unwrap(declared.function), "__code__", None)
    return declared.function.__module__, code.co_firstlineno if code else 0


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and len(name) <= MAX_NAME and re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None


def _is_schema(params: Any) -> bool:
    return isinstance(params, type) and issubclass(params, Schema)


def _is_figure(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= MAX_FIGURE


def _is_backoff(value: Any) -> bool:
    return isinstance(value, Backoff) and isinstance(value.seconds, int | float) and math.isfinite(value.seconds) and value.seconds >= 0


def _are_functions(declared: JobType) -> bool:
    optional = (declared.preview, declared.identity, declared.on_failure)
    return callable(declared.available) and all(one is None or callable(one) for one in optional)


_broken: list[BrokenFile] = []


@cache
def discover() -> dict[str, JobType]:
    """All job types by name, in alphabetical order. The first call imports every file of the packages in `JOB_PACKAGES`.

    Those of a file that cannot be imported are not among them: see `broken_files`.
    """
    _broken.clear()
    for broken in import_all(settings().job_packages):
        _broken.append(broken)  # what such a file declared before it failed may need what comes after
        for name in [name for name, one in _declared.items() if one.function.__module__ == broken.module]:
            del _declared[name]
    return dict(sorted(_declared.items()))


def broken_files() -> list[BrokenFile]:
    """The files of job types that cannot be imported."""
    discover()
    return list(_broken)


def broken_types() -> dict[str, tuple[BrokenType, BrokenFile]]:
    """The job types of files that cannot be imported, by name, each with its file."""
    discover()
    return {one.name: (one, broken) for broken in _broken for one in broken.types if one.name not in discover()}


def require_all() -> None:
    """Raise `BadSetting`, which names each in one line, if a file of job types cannot be imported."""
    if broken := broken_files():
        raise BadSetting(f"Cannot import {'; '.join(map(str, broken))}.")


def log_broken() -> None:
    """Log the files that cannot be imported, when a process starts that goes on without them."""
    for broken in broken_files():
        log.error("job_types_broken", types=[one.name for one in broken.types], file=broken.where, error=broken.reason)


def internal_types() -> list[str]:
    """The names of the job types that only Intray submits: users do not see their jobs."""
    found = {one.name for one in discover().values() if one.is_internal}
    return sorted(found | {name for name, (one, _) in broken_types().items() if one.submittable_by == "nobody"})


def queues() -> list[str]:
    """The names of the queues that job types declare, in alphabetical order."""
    return sorted({one.queue for one in discover().values()} | {one.queue for one, _ in broken_types().values()})


def missing_type(name: str) -> JobTypeMissing:
    """The exception for a job type that is not among the discovered ones: where its file cannot be loaded, with the reason."""
    broken = broken_types().get(name)
    return JobTypeMissing(name, broken[1].public_reason if broken else "")


def require(name: Any) -> JobType:
    """The job type that a running job asks for. Raises `JobTypeMissing`, and `Invalid` for what is no name of a job type."""
    if _is_name(name) and name not in discover():
        raise missing_type(name)
    return find(name)


def open_to(user: Submitter) -> dict[str, JobType]:
    """The job types that this user may submit, by name."""
    return {name: one for name, one in discover().items() if one.may_be_submitted_by(user)}


def broken_open_to(user: Submitter) -> dict[str, str]:
    """Why the job types of broken files, which this user may submit, are unavailable, by name. File and line are for admins."""
    return {
        name: f"Its file cannot be loaded: {broken if user.is_admin else broken.public_reason}."
        for name, (one, broken) in broken_types().items()
        if one.submittable_by == "anyone" or (one.submittable_by == "admin" and user.is_admin)
    }


def find(name: Any, pointer: str = "/type", *, user: Submitter | None = None) -> JobType:
    """The job type with this name; if a user is given, only one that they may submit. Raises `Invalid` that lists the choices."""
    types = open_to(user) if user else discover()
    if isinstance(name, str) and name in types:
        return types[name]
    if user and isinstance(name, str) and (reason := broken_open_to(user).get(name)):
        raise Invalid.field(pointer, f"{name} is not available here. {reason}")
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

"""Job types: what one declares, and how all of them are found.

A job type is a plain function in one file of `jobs/`. `@job_type` writes its declaration down and hands the function
back untouched; a wrong declaration fails at import. Everything else (form, API, validation, retries, docs) is derived.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from marshmallow import Schema

from monolith import aliases
from monolith.config import settings
from monolith.errors import Invalid, Permanent, Snooze
from monolith.job_types.interface import Delivery, Document, FailedJob, Handed, Job, Ledger, LedgerRow, Submitter
from monolith.job_types.validation import load_fields

MAX_BACKOFF = 3600.0  # seconds: a job that may still succeed is tried at least hourly


@dataclass(frozen=True)
class Backoff:
    """How long to wait before the next attempt, in seconds."""

    kind: str
    seconds: float

    def delay(self, attempt: int) -> float:
        """Seconds before the attempt after `attempt` (1 is the first), with up to 10 % of jitter."""
        factor = 2 ** (attempt - 1) if self.kind == "exponential" else 1
        return min(self.seconds * factor, MAX_BACKOFF) * random.uniform(1.0, 1.1)

    def __str__(self) -> str:
        return f"{self.kind}({self.seconds:g})"


def exponential(seconds: float) -> Backoff:
    """Wait `seconds`, then twice as long each time."""
    return Backoff("exponential", seconds)


def fixed(seconds: float) -> Backoff:
    """Wait `seconds` each time."""
    return Backoff("fixed", seconds)


__all__ = [
    "Automatic",
    "Delivery",
    "Document",
    "FailedJob",
    "Handed",
    "Job",
    "JobType",
    "Snooze",
    "Ledger",
    "LedgerRow",
    "Permanent",
    "exponential",
    "fixed",
    "job_type",
]
JobFunction = Callable[[Any, dict[str, Any]], dict[str, Any]]
Preview = Callable[[dict[str, Any], Handed | None], dict[str, Any] | None]
PRIORITIES = ("critical", "high", "normal", "low")  # the most urgent first


@dataclass(frozen=True)
class Automatic:
    """Documents of these kinds get the job by being submitted, with this priority and delay (s)."""

    kinds: tuple[str, ...]
    priority: str = "normal"
    delay: float = 0

    def __post_init__(self) -> None:
        if not self.kinds or self.priority not in PRIORITIES or self.delay < 0:
            raise ValueError(f"automatic needs document kinds, a delay of 0 or more, and one of the priorities {', '.join(PRIORITIES)}")


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
    io_bound: bool | Callable[[], bool] = False
    submittable_by: str = "anyone"
    automatic: Automatic | None = None
    preview: Preview | None = None
    identity: Callable[[dict[str, Any]], Any] | None = None
    on_failure: Callable[[FailedJob], None] | None = None

    @property
    def is_io_bound(self) -> bool:
        return self.io_bound() if callable(self.io_bound) else self.io_bound

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
        loaded = load_fields(_schema(self.params), {} if params is None else params, pointer, "Some parameters are not valid.")
        self._require_input(loaded, has_document, pointer)
        return loaded

    def _require_input(self, params: dict[str, Any], has_document: bool, pointer: str) -> None:
        if self.takes != "document" or has_document or any(params.get(name) for name in self.alternatives):
            return
        choices = ["document_id", *(f"params.{name}" for name in self.alternatives)]
        raise Invalid.field(f"{pointer.removesuffix('/params')}/document_id", f"{self.name} needs input. Give {' or '.join(choices)}.")


@cache
def _schema(params: type[Schema]) -> Schema:
    """Made once: making a schema takes longer than reading with it."""
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
    automatic: Automatic | None = None,
    preview: Preview | None = None,
    identity: Callable[[dict[str, Any]], Any] | None = None,
    on_failure: Callable[[FailedJob], None] | None = None,
    **former: Any,
) -> Callable[[JobFunction], JobFunction]:
    """Declare the decorated function as a job type; it is handed back untouched.

    takes: "document" or "nothing". alternatives: params of which one may be given instead of a document.
    max_attempts: tries in all. timeout: seconds one attempt may run. available: says why the type is off here, or None.
    io_bound: it mostly waits for a network, and runs in a thread beside others of that kind: its libraries must be fit for threads.
    A function says so for types that wait only where something is set up.
    submittable_by: "anyone", or "admin" for what ordinary users get as a follow-up of other jobs only, such as mail, or "nobody":
    Intray alone submits it, and people do not see it among their jobs.
    automatic: which kinds of documents get it by being submitted. preview: computes, within milliseconds, what the answer to the
    submission shows at once. identity: what of the params makes it the same work: asked for again by the same owner, the same job answers.
    on_failure: called when the job has failed for good, however that came; it must be quick and touch nothing outside.
    The first line of the docstring is the title, the whole of it the description; the function's name is the type's.
    Raises ValueError when the declaration is wrong.
    """

    io_bound, preview = _by_former_names(former, io_bound, preview)

    def declare(function: JobFunction) -> JobFunction:
        how = partial(JobType, max_attempts=max_attempts, backoff=backoff, timeout=timeout, available=available, io_bound=io_bound)
        who = partial(how, submittable_by=submittable_by, automatic=automatic, identity=identity, preview=preview, on_failure=on_failure)
        declared = who(function.__name__, *_words(function), function, queue, params, takes, alternatives)
        _check(declared)
        _declared[declared.name] = replace(declared, **_overrides(declared))
        return function

    return declare


def _by_former_names(former: dict[str, Any], io_bound: Any, preview: Any) -> tuple[Any, Any]:
    """The values of `io_bound` and `preview`, also when given as `waits` and `at_once`, their names until 0.9."""
    for name, now in (("waits", "io_bound"), ("at_once", "preview")):
        if name in former:
            aliases.warn(f"job_type({name}=...)", f"job_type({now}=...)")
    io_bound, preview = former.pop("waits", io_bound), former.pop("at_once", preview)
    if former:
        raise TypeError(f"job_type() got an unexpected keyword argument {next(iter(former))!r}")
    return io_bound, preview


def _words(function: JobFunction) -> tuple[str, str]:
    description = inspect.getdoc(function) or ""
    return description.partition("\n")[0].rstrip("."), description


def _check(declared: JobType) -> None:
    wrong = {
        "its name must be lower-case words joined by _": not re.fullmatch(r"[a-z][a-z0-9_]*", declared.name),
        "its function needs a docstring, which is shown as its documentation": not declared.title,
        "its queue must be lower-case letters, digits and _": not re.fullmatch(r"[a-z][a-z0-9_]*", declared.queue),
        "takes must be 'document' or 'nothing'": declared.takes not in ("document", "nothing"),
        "alternatives must be names of its parameters": not set(declared.alternatives) <= set(declared.params().fields),
        "submittable_by must be 'anyone', 'admin' or 'nobody'": declared.submittable_by not in ("anyone", "admin", "nobody"),
        "max_attempts must be 1 or more": declared.max_attempts < 1,
        "timeout must be 1 second or more": declared.timeout < 1,
        "only a job type that takes a document can be automatic": declared.automatic is not None and declared.takes != "document",
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
    why = f"Unknown job type {str(name)[:60]!r}"
    if isinstance(name, str) and name in discover():
        who = "Intray" if discover()[name].is_internal else "admins"
        why = f"Only {who} can submit jobs of type {name}"
    raise Invalid.field(pointer, f"{why}. Choose one of: {', '.join(types)}.")


def __getattr__(name: str) -> Any:
    if name == "Later":
        aliases.warn("monolith.job_types.registry.Later", "Snooze")
        return Snooze
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

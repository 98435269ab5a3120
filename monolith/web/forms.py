"""Forms of the pages: controls made from a job type's params, the jobs a user filled in, and errors by control."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flask import request
from werkzeug.datastructures import MultiDict

from monolith.content.formatting import STATUS_WORDS, humanise
from monolith.db.models import STATUSES, User
from monolith.documents.queries import MAX_SEARCH
from monolith.documents.submission import admin_params
from monolith.errors import FieldError, Problem
from monolith.job_types import registry
from monolith.job_types.registry import JobType
from monolith.web.schemas import params_schema

DOCUMENT_PARAMS = ("text", "url", "content")  # params that the form has as the document
LONG_TEXT = 200  # characters; a longer param gets a multi-line control
LIMITS = {"minimum": "min", "maximum": "max", "minLength": "minlength", "maxLength": "maxlength"}


@dataclass(frozen=True)
class Control:
    """One param of a job type as a control of a form.

    `kind`: text, area, lines, number, switch or choice. `limits`: HTML attributes such as min and maxlength.
    """

    name: str
    param: str
    label: str
    help: str
    kind: str
    default: Any
    choices: list[Any]
    limits: dict[str, Any]


def controls(job_type: JobType, *, is_admin: bool = True) -> list[Control]:
    """The controls of a job type's params, without those that stand in for the document, and without admin params unless `is_admin`."""
    schema = params_schema(job_type)
    hidden = [] if is_admin else admin_params(job_type)
    schema["properties"] = {name: one for name, one in schema["properties"].items() if name not in hidden}
    shown = {name: one for name, one in schema["properties"].items() if not (name in DOCUMENT_PARAMS and name in job_type.alternatives)}
    found = [_control(job_type.name, name, one) for name, one in shown.items()]
    return [control for control in found if control.kind != "none"]


def _control(type_name: str, param: str, schema: dict[str, Any]) -> Control:
    limits = {LIMITS[name]: value for name, value in schema.items() if name in LIMITS}
    choices = [choice for choice in schema.get("enum", []) if choice is not None]
    label = schema.get("title") or humanise(param)
    help_text = schema.get("description", "")
    return Control(f"{type_name}.{param}", param, label, help_text, _kind(schema), schema.get("default"), choices, limits)


def _kind(schema: dict[str, Any]) -> str:
    declared = schema.get("type", "string")
    name = next((one for one in declared if one != "null"), "string") if isinstance(declared, list) else declared
    if schema.get("enum"):
        return "choice"
    if name == "string":
        return "area" if schema.get("maxLength", 0) > LONG_TEXT else "text"
    if name == "array":
        return "lines" if schema.get("items", {}).get("type", "string") == "string" else "none"
    return {"integer": "number", "number": "number", "boolean": "switch"}.get(name, "none")


def priorities(job_types: Iterable[JobType], user: User) -> tuple[str, ...]:
    """The priorities that the user may choose for at least one of these job types, the most urgent first."""
    return max((one.priorities_for(user) for one in job_types), key=len, default=("normal",))


def read_specs(form: MultiDict[str, str]) -> list[Any]:
    """The specs of the selected jobs: {type, params, priority} for each."""
    return [{"type": name, "params": _read_params(name, form), "priority": form.get("priority") or None} for name in form.getlist("job")]


def _read_params(type_name: str, form: MultiDict[str, str]) -> dict[str, Any]:
    """The params that were filled in, not yet validated. An empty control leaves its param at its default."""
    job_type = registry.discover().get(type_name)
    found = {control.param: _read(control, form) for control in controls(job_type)} if job_type else {}
    return {param: value for param, value in found.items() if value is not None}


def _read(control: Control, form: MultiDict[str, str]) -> Any:
    text = form.get(control.name, "").strip()
    if control.kind == "switch":
        return control.name in form
    if control.kind == "lines":
        return [line.strip() for line in text.splitlines() if line.strip()] or None
    return text or None


def errors_by_name(problem: Problem) -> dict[str, list[str]]:
    """The errors by field of a plain form, `/events/0` under `events`; under "" those that belong to no field."""
    found: dict[str, list[str]] = {}
    for error in problem.errors or [FieldError(problem.detail, "")]:
        found.setdefault(error.pointer.strip("/").partition("/")[0], []).append(error.detail)
    return found


def errors_by_control(problem: Problem, form: MultiDict[str, str]) -> dict[str, list[str]]:
    """The errors by control of a form with jobs, `/jobs/0/params/name` under `analyze.name`; under "" those that belong to no control."""
    found: dict[str, list[str]] = {}
    for error in problem.errors or [FieldError(problem.detail, "")]:
        found.setdefault(_control_of(error.pointer, form.getlist("job")), []).append(error.detail)
    return found


def _control_of(pointer: str, types: list[str]) -> str:
    """`/file/2` is `file`, `/jobs/0/params/name` is `analyze.name`, `/jobs/0/type` is `job`."""
    parts = pointer.strip("/").split("/")
    if parts[0] == "jobs" and len(parts) > 1 and parts[1].isdigit() and int(parts[1]) < len(types):
        return _control_of("/" + "/".join(parts[2:]), [types[int(parts[1])]])
    if parts[0] == "params" and len(parts) > 1 and types:
        return f"{types[0]}.{parts[1]}"
    names = {"type": "job", "jobs": "job", "url": "text"}
    name = names.get(parts[0], parts[0])
    return name if name in ("file", "text", "title", "kind", "tags", "job", "priority") else ""


# ---- filters of lists


def list_filters(*names: str) -> dict[str, str | None]:
    """The filters in the query string, by these names; None for one that is not set."""
    return {name: request.args.get(name, "").strip()[:MAX_SEARCH] or None for name in names}


def filter_choices() -> dict[str, Any]:
    """The statuses and job types that a list can be filtered by."""
    types = [one.name for one in registry.discover().values() if not one.is_internal]
    return {"statuses": STATUSES, "type_names": types, "words": STATUS_WORDS}

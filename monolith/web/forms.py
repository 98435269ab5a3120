"""TODO monolith.server.gunicorn_worker.forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from werkzeug.datastructures import MultiDict

from monolith.content.formatting import humanise
from monolith.documents.job_spec import for_admins
from monolith.errors import FieldError, Problem
from monolith.job_types import registry
from monolith.job_types.registry import JobType
from monolith.web.schemas import params_schema

OWN = ("text", "url", "content")  # params that the form itself asks for, as the document
LONG_TEXT = 200  # characters: a param that may be longer gets a box of several lines
LIMITS = {"minimum": "min", "maximum": "max", "minLength": "minlength", "maxLength": "maxlength"}


@dataclass(frozen=True)
class Control:
    """One param of a job type, as a control of a form. `kind` is text, area, lines, number, switch or choice."""

    name: str
    param: str
    label: str
    help: str
    kind: str
    default: Any
    choices: list[Any]
    limits: dict[str, Any]


def controls(job_type: JobType, *, is_admin: bool = True) -> list[Control]:
    """The controls of a job type's params, but for the text or page that stands in for the document, and what is for admins."""
    schema = params_schema(job_type)
    hidden = [] if is_admin else for_admins(job_type)
    schema["properties"] = {name: one for name, one in schema["properties"].items() if name not in hidden}
    shown = {name: one for name, one in schema["properties"].items() if not (name in OWN and name in job_type.alternatives)}
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


def read_specs(form: MultiDict[str, str]) -> list[Any]:
    """The jobs that are ticked, each with its params and the priority."""
    return [
        {"type": name, "params": _read_params(name, form), "priority": form.get("priority") or "normal"} for name in form.getlist("job")
    ]


def _read_params(type_name: str, form: MultiDict[str, str]) -> dict[str, Any]:
    """What was filled in; a control left empty leaves its param to its default. The schema judges the values."""
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
    """What is wrong by the field of a plain form, `/events/0` at `events`; under "" what belongs to none."""
    found: dict[str, list[str]] = {}
    for error in problem.errors or [FieldError(problem.detail, "")]:
        found.setdefault(error.pointer.strip("/").partition("/")[0], []).append(error.detail)
    return found

"""The forms of the pages: controls made from a job type's params, and what a person filled in as documents and jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from marshmallow import ValidationError
from werkzeug.datastructures import FileStorage, MultiDict

from monolith.errors import FieldError, Invalid, Problem
from monolith.jobs import uploads
from monolith.jobs.schemas import DocumentFields, params_schema
from monolith.jobs.submission import for_admins
from monolith.jobs.wording import humanise
from monolith.models import Document
from monolith.runner import registry
from monolith.runner.registry import JobType, field_errors

OWN = ("text", "url", "content")  # params that the form itself asks for, as the document
LONG_TEXT = 200  # characters: a param that may be longer gets a box of several lines
NOTHING = "There is nothing to submit yet. Choose a file, paste some text, or give the address of a page."
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


def read_documents(owner_id: int, form: MultiDict[str, str], files: Iterable[FileStorage]) -> list[Document]:
    """Every document in the form: files, text and page. Raises `Invalid` with all that is wrong; then none is taken."""
    about = _about(form)
    chosen = [file for file in files if file.filename]
    makers: list[Callable[[], Document]] = [partial(_from_file, owner_id, file, place, about) for place, file in enumerate(chosen)]
    if text := form.get("text", "").replace("\r\n", "\n"):
        makers += [partial(uploads.from_text, owner_id, text, **about)] if text.strip() else []
    if url := form.get("url", "").strip():
        makers += [partial(uploads.from_url, owner_id, url, **about)]
    if not makers:
        raise Invalid.field("/file", NOTHING)
    if len(makers) > 1 and "title" in about:
        raise Invalid.field("/title", "A title belongs to one document. Leave it empty, or submit one at a time.")
    return _make_all(makers)


def _about(form: MultiDict[str, str]) -> dict[str, Any]:
    try:
        given: dict[str, Any] = DocumentFields().load(
            {name: form[name].strip() for name in ("title", "kind") if form.get(name, "").strip()}
        )
    except ValidationError as error:
        raise Invalid("Some fields need mending.", errors=field_errors(error.messages, "")) from error
    return given


def _from_file(owner_id: int, file: FileStorage, place: int, about: dict[str, Any]) -> Document:
    name = uploads.safe_filename(file.filename or "")
    try:
        return uploads.from_file(owner_id, name, file.read(), f"/file/{place}", **about)
    except Problem as problem:
        said = problem.detail if problem.detail.startswith(name) else f"{name}: {problem.detail}"
        raise Invalid.field(f"/file/{place}", said) from problem


def _make_all(makers: list[Callable[[], Document]]) -> list[Document]:
    made: list[Document] = []
    errors: list[FieldError] = []
    for make in makers:
        try:
            made.append(make())
        except Problem as problem:
            errors += problem.errors
    if errors:
        raise Invalid("Some fields need mending. Nothing was submitted yet.", errors=errors)
    return made


def errors_by_control(problem: Problem, form: MultiDict[str, str]) -> dict[str, list[str]]:
    """What is wrong by the name of the control it belongs to; under "" what belongs to none."""
    found: dict[str, list[str]] = {}
    for error in problem.errors or [FieldError(problem.detail, "")]:
        found.setdefault(_control_of(error.pointer, form.getlist("job")), []).append(error.detail)
    return found


def _control_of(pointer: str, types: list[str]) -> str:
    """`/file/2` is of `file`, `/jobs/0/params/name` of `analyze.name`, `/jobs/0/type` of `job`."""
    parts = pointer.strip("/").split("/")
    if parts[0] == "jobs" and len(parts) > 1 and parts[1].isdigit() and int(parts[1]) < len(types):
        return _control_of("/" + "/".join(parts[2:]), [types[int(parts[1])]])
    if parts[0] == "params" and len(parts) > 1 and types:
        return f"{types[0]}.{parts[1]}"
    names = {"type": "job", "jobs": "job"}
    name = names.get(parts[0], parts[0])
    return name if name in ("file", "text", "url", "title", "kind", "job", "priority") else ""


def errors_by_name(problem: Problem) -> dict[str, list[str]]:
    """What is wrong by the field of a plain form, `/events/0` at `events`; under "" what belongs to none."""
    found: dict[str, list[str]] = {}
    for error in problem.errors or [FieldError(problem.detail, "")]:
        found.setdefault(error.pointer.strip("/").partition("/")[0], []).append(error.detail)
    return found

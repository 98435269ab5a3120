"""The `Idempotency-Key` of a request, and the fingerprint that tells a repeat from another request with the same key."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

from flask import request
from werkzeug.datastructures import FileStorage

from monolith.errors import FieldError, Problem
from monolith.runner.ledger.idempotency import Key

ONE_TIME = "once"  # the hidden field of a page's form
NOT_SAID = ("csrf_token", ONE_TIME)  # fields that say nothing of what is asked for


def of_call() -> Key | None:
    """The key of a call of the API; None where none is given. Raises `Problem` for one that cannot be used."""
    given = request.headers.get("Idempotency-Key")
    if given is None:
        return None
    bare = given[1:-1] if len(given) > 1 and given[0] == given[-1] == '"' else given  # the IETF draft quotes it, most clients do not
    if not re.fullmatch(r"[\x21-\x7e]{1,255}", bare):
        detail = "This Idempotency-Key is not valid. Use 1 to 255 visible ASCII characters without spaces, such as a UUID."
        raise Problem(detail, errors=[FieldError(detail, "/Idempotency-Key")])
    return Key(bare, _fingerprint())


def of_form() -> Key | None:
    """The key of a page's form: sending what is filled in twice makes one thing, mending it in between makes another."""
    once = request.form.get(ONE_TIME)
    if not once:
        return None
    fingerprint = _fingerprint()
    return Key(f"form {_digest([once, fingerprint])}", fingerprint)  # with a space: no key of a call is the same


def _fingerprint() -> str:
    """What the request asks for, however it is put: the order of JSON's keys and the form's boundary make no difference."""
    said = _form() if request.mimetype == "multipart/form-data" or request.form else request.get_json(silent=True)
    return _digest([request.method, request.path, said])


def _form() -> dict[str, Any]:
    fields = {name: values for name, values in request.form.lists() if name not in NOT_SAID}
    return {"fields": fields, "files": list(_files(request.files.items(multi=True)))}


def _files(files: Iterable[tuple[str, FileStorage]]) -> Iterable[list[str]]:
    for name, file in files:
        digest = hashlib.file_digest(file.stream, "sha256").hexdigest()  # type: ignore[arg-type]
        file.stream.seek(0)
        yield [name, file.filename or "", digest]


def _digest(said: Any) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

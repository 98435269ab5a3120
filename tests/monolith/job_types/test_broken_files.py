"""A file of job types that cannot be imported: its types are off, with the reason, and all others work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import update

from monolith.db.engine import write_session
from monolith.db.models import Job
from monolith.errors import BadSetting
from monolith.job_types import registry
from monolith.job_types.broken_files import BrokenFile
from monolith.server import doctor
from tests.support.callers import Caller
from tests.support.jobs import run_due, submit_job

Broken = Callable[..., list[BrokenFile]]

HEAD = """from marshmallow import Schema, fields
from monolith.job_types.registry import job_type
class Params(Schema):
    pass
"""
GOOD = HEAD + '@job_type(params=Params, takes="nothing")\ndef {name}(job, params):\n    """Do nothing."""\n    return {{}}\n'
DECLARED = HEAD + '@job_type(params=Params, takes="nothing", {arguments})\ndef bad(job, params):\n    """Do nothing."""\n'


@pytest.fixture
def load(tmp_path: Path, intray_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Broken:
    """Loads the trial jobs and a package of these files beside them; gives the broken ones."""

    def load(files: dict[str, str], **settings: str) -> list[BrokenFile]:
        package = tmp_path / tmp_path.name
        package.mkdir()
        for name, text in {"__init__.py": "", **files}.items():
            (package / name).write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        registry.discover()  # is imported once in this process, and so declared once
        monkeypatch.setattr(registry, "_declared", dict(registry._declared))
        intray_settings(JOB_PACKAGES=f"{package.name},tests.trial_jobs", **settings)
        return registry.broken_files()

    return load


# What a file does, the line that is named, and the reason.
FAULTS = [
    (HEAD + "def bad(:\n", 5, "SyntaxError: invalid syntax"),
    ("x = 1\nimport no_such_module\n# job_type\n", 2, "ModuleNotFoundError: No module named 'no_such_module'"),
    (HEAD + "@job_type(params=Params)\ndef bad(job, params):\n    return {}\n", 5, "its function needs a docstring"),
    ("# job_type\nimport sys\nsys.exit(0)\n", 3, "it calls sys.exit(0) while it is imported"),
    ("# job_type\nraise BaseException('a panic')\n", 2, "BaseException: a panic"),
    ("# job_type\nraise ValueError('cannot reach\\npostgresql://me:s3/cret@host/x')\n", 2, "cannot reach postgresql://***@host/x"),
    (DECLARED.format(arguments='rate="often"'), 5, "job type bad: rate: 'often' is not a rate. Write it as 60/m"),
    (DECLARED.format(arguments="rate_per_user=60"), 5, "job type bad: rate_per_user: '60' is not a rate"),
    (DECLARED.format(arguments='rate="1/9999999999d"'), 5, "more than 9 digits"),
    (DECLARED.format(arguments="max_running=-1"), 5, "max_running and max_running_per_user must be 0 (no limit) or more"),
    (DECLARED.format(arguments='max_running_per_user="3"'), 5, "max_running and max_running_per_user must be 0 (no limit) or more"),
    (DECLARED.format(arguments='timeout="60"'), 5, "timeout must be 1 second or more"),
    (DECLARED.format(arguments="backoff=5"), 5, "backoff must be exponential(seconds) or fixed(seconds)"),
    (DECLARED.format(arguments="colour=1"), 5, "unexpected keyword argument 'colour'"),
    (GOOD.format(name="bad").replace("def bad", "async def bad"), 5, "its function must not be async"),
    (GOOD.format(name="bad") + GOOD.format(name="bad"), 13, "job type bad: the same name is declared elsewhere, too"),
    (GOOD.format(name="early") + "1 / 0\n", 9, "ZeroDivisionError"),
]
OVERRIDES = {
    "TIMEOUT": ("soon", "TIMEOUT is 'soon'. It must be a whole number above 0"),
    "MAX_ATTEMPTS": ("99999999999", "MAX_ATTEMPTS is '99999999999'. It must be a whole number above 0, at most 10,000,000"),
    "BACKOFF": ("inf", "BACKOFF is 'inf'. It must be a number above 0"),
    "MAX_RUNNING": ("-1", "MAX_RUNNING is '-1'. It must be a whole number, 0 for no limit"),
    "MAX_RUNNING_PER_USER": ("1.5", "MAX_RUNNING_PER_USER is '1.5'"),
    "RATE": ("often", "RATE is 'often'. It is not a rate. Write a rate as 60/m"),
    "RATE_PER_USER": ("0/m", "RATE_PER_USER is '0/m'. It is not a rate"),
}


def test_a_file_is_off_whatever_it_does_and_the_others_work(load: Broken) -> None:
    files = {f"bad_{number:02}.py": text for number, (text, _, _) in enumerate(FAULTS)}
    broken = load({**files, "good.py": GOOD.format(name="good")})
    assert registry.discover()["good"].title == "Do nothing"
    assert not {"early", "bad"} & registry.discover().keys()
    assert {"early", "bad", "bad_01"} <= registry.broken_types().keys()
    for one, (name, (_, line, said)) in zip(broken, zip(files, FAULTS, strict=True), strict=True):
        assert f"{name}, line {line}: " in str(one) and said in str(one) and "\n" not in str(one)
    with pytest.raises(BadSetting, match=r"bad_00.py, line 5: .*bad_01.py, line 2: "):
        registry.require_all()


def test_of_two_files_that_declare_one_name_the_first_works(load: Broken) -> None:
    (broken,) = load({"first.py": GOOD.format(name="twin"), "second.py": GOOD.format(name="twin")})
    assert "second.py, line 5: job type twin: the same name is declared elsewhere, too" in str(broken)
    assert registry.discover()["twin"].function.__module__.endswith("first")
    assert registry.broken_types() == {}


def test_an_override_that_cannot_be_used_turns_its_type_off(load: Broken) -> None:
    types = {f"t_{name.lower()}": name for name in OVERRIDES}
    settings = {f"{one}_{name}".upper(): OVERRIDES[name][0] for one, name in types.items()}
    broken = load({f"{one}.py": GOOD.format(name=one) for one in types}, **settings)
    assert registry.broken_types().keys() == types.keys()
    assert "trial_echo" in registry.discover()
    assert all(f"T_{name}_{said}" in str(one) for one, (name, (_, said)) in zip(broken, sorted(OVERRIDES.items()), strict=True))


def test_the_line_of_a_file_that_it_imports_is_named_too(load: Broken) -> None:
    broken = load({"bad.py": "from .tools import x\nimport job_type\n", "tools.py": "import\n"})[0]
    assert "bad.py, line 1, by " in str(broken) and "tools.py, line 1: SyntaxError" in str(broken)


def test_a_package_that_cannot_be_imported_is_named_and_its_types_are_off(load: Broken, intray_settings: Callable[..., None]) -> None:
    (broken,) = load({"__init__.py": "import no_such_module\n", "good.py": GOOD.format(name="good")})
    assert "__init__.py, line 1: ModuleNotFoundError" in str(broken)
    assert registry.broken_types().keys() == {"good"} and "trial_echo" in registry.discover()
    intray_settings(JOB_PACKAGES="no_such_package,tests.trial_jobs")
    with pytest.raises(BadSetting, match="'no_such_package' is not a package that can be imported"):
        registry.broken_files()


def test_pages_and_api_say_which_type_is_off_and_why_and_where_for_admins(load: Broken, alice: Caller, admin: Caller) -> None:
    text = HEAD + 'open("/etc/none/secret")\n@job_type(params=Params, queue="slow")\ndef bad(job, params):\n    pass\n'
    load({"bad.py": text, "inner.py": text.replace("def bad", "def inner").replace('queue="slow"', 'submittable_by="nobody"')})
    for caller, has_path in ((alice, False), (admin, True)):
        listed = {one["name"]: one for one in caller.get("/api/v1/job-types").json["data"]}
        assert listed["trial_echo"]["available"] and "inner" not in listed
        assert (listed["bad"]["available"], listed["bad"]["queue"], listed["bad"]["takes"]) == (False, "slow", None)
        assert caller.get("/api/v1/job-types/bad").json == listed["bad"]
        refused = caller.post("/api/v1/jobs", json={"type": "bad"})
        page, form = caller.get("/"), caller.get("/run/bad")
        assert (refused.status_code, refused.json["errors"][0]["pointer"]) == (422, "/type")
        assert (page.status_code, form.status_code) == (200, 503)
        for shown in (refused.json["errors"][0]["detail"], page.text, form.text, listed["bad"]["unavailable_reason"]):
            assert "FileNotFoundError" in shown and "Traceback" not in shown
            assert ("bad.py, line 5" in shown, "/etc/none/secret" in shown) == (has_path, has_path)
    assert registry.internal_types().count("inner") == 1
    assert doctor.rq_queues.names().count("slow.normal") == 1  # so that what waits there says what it waits for
    for release in (False, True):
        problems = {one.subject: one.message for one in doctor.examine(release) if one.is_problem}
        assert "bad.py, line 5: FileNotFoundError" in problems["types"]


def test_a_waiting_job_of_a_type_that_is_off_says_why_and_doctor_counts_it(load: Broken, alice: Caller) -> None:
    load({"bad.py": "# job_type\nopen('/etc/none/secret')\n"})
    job = submit_job(alice)["id"]
    with write_session() as session:
        session.execute(update(Job).values(type="bad"))
    row = run_due(job)
    assert (row.status, row.attempt) == ("scheduled", 0)
    assert "This worker cannot load it: FileNotFoundError" in row.snooze_reason and "/etc/none" not in row.snooze_reason
    for path in (f"/jobs/{job}", "/jobs"):
        page = alice.get(path)
        assert page.status_code == 200, path
    assert "This worker cannot load it: FileNotFoundError" in alice.get(f"/jobs/{job}").text
    types = next(one for one in doctor.examine() if one.subject == "types")
    assert types.is_problem and "this version lacks: bad (1)" in types.message and "bad.py, line 2: FileNotFoundError" in types.message


def test_functions_of_a_type_that_fail_concern_that_type_only(load: Broken, alice: Caller) -> None:
    assert load({"odd.py": GOOD.format(name="odd").replace(")\ndef", ", available=lambda: 1 / 0, io_bound=lambda: 1 / 0)\ndef")}) == []
    listed = {one["name"]: one for one in alice.get("/api/v1/job-types").json["data"]}
    assert "ZeroDivisionError" in listed["odd"]["unavailable_reason"]
    assert not registry.discover()["odd"].is_io_bound
    assert registry.discover()["odd"].preview_of({}, None) is None

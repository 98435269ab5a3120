"""Projects built, tested and linted through the API by real processes; one of them is a real package with a test suite of its own."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
import zipfile
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.support.archives import DOCUTILS, from_the_index, link, tarred, zipped
from tests.support.workshop import Workshop, commands

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
PACKAGE = {
    "pyproject.toml": """
[build-system]
requires = ["{0}"]
build-backend = "{1}"
[project]
name = "clock"
version = "1.2"
requires-python = ">=3.11"
""",
    "clock.py": '"""Time."""\n\n\ndef later(hour: int) -> int:\n    return (hour + 1) % 24\n',
    "tests/test_clock.py": """
import pytest
from importlib.metadata import version
import clock

@pytest.mark.parametrize(("hour", "then"), [(1, 2), (23, 0)])
def test_later(hour, then):
    assert clock.later(hour) == then

def test_it_is_installed():
    assert version("clock") == "1.2"

def test_that_fails():
    assert clock.later(1) == 3, "too late"

@pytest.fixture
def broken():
    raise RuntimeError("no clock here")

def test_that_breaks(broken):
    pass

@pytest.mark.skip(reason="another day")
def test_that_waits():
    pass
""",
}


def package(backend: str = "setuptools", module: str = "setuptools.build_meta") -> dict[str, str]:
    return {**PACKAGE, "pyproject.toml": PACKAGE["pyproject.toml"].format(backend, module)}


def test_a_real_package_is_built_tested_and_linted(workshop: Workshop, pytestconfig: pytest.Config) -> None:
    """Its own suite is counted as pytest itself counts it, in the line that it prints last."""
    sdist = from_the_index(DOCUTILS, pytestconfig.cache).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(sdist)) as archive:
        names = [one.name for one in archive if one.isfile()]
    assert len(names) >= 200
    submitted = {act: workshop.submit(act, sdist, "docutils-0.23.tar.gz") for act in ("build", "test", "lint")}
    jobs = {act: workshop.over(job) for act, job in submitted.items()}
    assert {act: (job["status"], job["result"]["killed"]) for act, job in jobs.items()} == dict.fromkeys(jobs, ("finished", None))
    built, tested, linted = (jobs[act]["result"] for act in ("build", "test", "lint"))
    assert built["exit_code"] == 0 and [one["name"] for one in built["artifacts"]] == ["docutils-0.23-py3-none-any.whl"]
    with zipfile.ZipFile(io.BytesIO(workshop.file(jobs["build"], "docutils-0.23-py3-none-any.whl"))) as wheel:
        assert "docutils/core.py" in wheel.namelist()
    last = tested["log"].rstrip().splitlines()[-1]
    counted = {name: int(number) for number, name in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}
    assert counted["passed"] > 400
    assert tested["totals"]["total"] == sum(counted.values()) == len(tested["cases"]) + tested["cases_left_out"]
    suite = ElementTree.fromstring(workshop.file(jobs["test"], "junit.xml"))[0].attrib
    told = {
        "failed": "failures",
        "error": "errors",
        "skipped": "skipped",
    }  # a test of which a part is skipped is skipped there, and passes here
    assert {name: tested["totals"][name] for name in told} == {name: int(suite[word]) for name, word in told.items()}
    assert tested["exit_code"] == (1 if counted.get("failed") else 0)
    assert linted["kind"] == "python" and linted["totals"]["error"] == len(linted["diagnostics"]) + linted["diagnostics_left_out"]
    places = {one["file"] for one in linted["diagnostics"]}
    assert places <= {name.partition("/")[2] for name in names}


@pytest.mark.parametrize(
    ("backend", "module"), [("setuptools", "setuptools.build_meta"), ("hatchling", "hatchling.build"), ("flit_core", "flit_core.buildapi")]
)
def test_a_wheel_is_built_by_each_backend(workshop: Workshop, backend: str, module: str) -> None:
    files = package(backend, module)
    if backend == "flit_core":
        files["pyproject.toml"] += 'description = "Time"\n'
    if backend == "hatchling":
        files["pyproject.toml"] += '[tool.hatch.build.targets.wheel]\ninclude = ["clock.py"]\n'
    result = workshop.run("build", files)
    assert (result["exit_code"], [one["name"] for one in result["artifacts"]]) == (0, ["clock-1.2-py3-none-any.whl"]), result["log"]


def test_what_became_of_each_test_is_told(workshop: Workshop) -> None:
    job = workshop.over(workshop.submit("test", zipped({f"clock/{name}": text for name, text in package().items()})))
    result = job["result"]
    assert (result["exit_code"], result["killed"], result["note"]) == (1, None, None)
    assert result["totals"] == {"total": 6, "passed": 3, "failed": 1, "error": 1, "skipped": 1}
    told = {one["name"]: one for one in result["cases"]}
    assert {name: one["outcome"] for name, one in told.items()} == {
        "test_later[1-2]": "passed",
        "test_later[23-0]": "passed",
        "test_it_is_installed": "passed",
        "test_that_fails": "failed",
        "test_that_breaks": "error",
        "test_that_waits": "skipped",
    }
    assert "too late" in told["test_that_fails"]["message"] and "no clock here" in told["test_that_breaks"]["message"]
    assert told["test_that_fails"]["class"] == "tests.test_clock" and told["test_that_fails"]["seconds"] >= 0
    assert workshop.file(job, "junit.xml").startswith(b"<?xml")
    page = workshop.page(job)
    assert "Tests failed" in page and "tests.test_clock.test_that_fails" in page and "too late" in page
    assert result["usage"]["peak_memory_mb"] > 5 and result["usage"]["seconds"] > 0


def test_findings_have_their_place(workshop: Workshop) -> None:
    files = {"pyproject.toml": "[tool.ruff]\nlint.select = ['F']\n", "src/a.py": "import os\n\nx = y\n", "b.py": "def f(:\n"}
    result = workshop.run("lint", files)
    assert (result["exit_code"], result["kind"]) == (1, "python")
    told = [(one["file"], one["line"], one["column"], one["rule"], one["severity"]) for one in result["diagnostics"]]
    assert told[0] == ("b.py", 1, 7, "syntax", "error")
    assert told[-2:] == [("src/a.py", 1, 8, "F401", "error"), ("src/a.py", 3, 5, "F821", "error")]
    assert result["totals"]["error"] == len(told) and "`os` imported but unused" in result["diagnostics"][-2]["message"]
    hostile = workshop.over(workshop.submit_files("lint", {"a.py": "import re as x  # <script>\nprint(f'{<script>}')\n"}))
    assert "Problems found" in workshop.page(hostile) and "<script>}" not in workshop.page(hostile)
    clean = workshop.run("lint", {"a.py": "x = 1\n"})
    assert (clean["exit_code"], clean["diagnostics"], clean["totals"]) == (0, [], {"error": 0, "warning": 0})


def test_a_node_project_is_tested_and_packed_offline(workshop: Workshop) -> None:
    tests = """
const test = require('node:test'), assert = require('node:assert')
test('adds', () => assert.equal(require('..')(1, 2), 3))
test('fails', () => assert.equal(1, 2))
test('waits', {skip: true}, () => {})
"""
    package = json.dumps({"name": "adder", "version": "2.0.0", "main": "index.js", "scripts": {"test": "node --test"}})
    files = {"package.json": package, "index.js": "module.exports = (a, b) => a + b\n", "test/adder.test.js": tests}
    tested = workshop.run("test", files)
    assert (tested["kind"], tested["exit_code"]) == ("node", 1), tested["log"]
    assert tested["totals"] == {"total": 3, "passed": 1, "failed": 1, "error": 0, "skipped": 1}
    packed = workshop.run("build", files)
    assert [one["name"] for one in packed["artifacts"]] == ["adder-2.0.0.tgz"], packed["log"]
    refused = workshop.over(workshop.submit_files("lint", files))
    assert refused["status"] == "failed" and "intray.toml" in refused["error"]["message"]


def test_a_makefile_says_how_and_what_it_makes_is_kept(workshop: Workshop) -> None:
    makefile = b"all: hello\nhello: hello.c\n\tcc -o hello hello.c\ncheck: hello\n\t./hello\n"
    source = b'#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n'
    archive = tarred(("c/Makefile", makefile), ("c/src/hello.c", source), link("c/hello.c", "src/hello.c"))
    built = workshop.over(workshop.submit("build", archive, "c.tgz"))
    assert (built["result"]["kind"], built["result"]["exit_code"]) == ("make", 0), built["result"]["log"]
    assert [one["name"] for one in built["result"]["artifacts"]] == ["hello"]
    assert workshop.file(built, "hello").startswith(b"\x7fELF") and "Files" in workshop.page(built)
    tested = workshop.over(workshop.submit("test", archive, "c.tgz"))["result"]
    assert (tested["exit_code"], tested["totals"]["total"]) == (0, 0) and tested["log"].endswith("hello\n") and "JUnit" in tested["note"]


def test_the_projects_own_commands_come_first_and_stop_at_the_first_that_fails(workshop: Workshop) -> None:
    junit = '<testsuite><testcase name="one" classname="c" time="nan"/></testsuite>'
    toml = commands("test", f"echo '{junit}' > r.xml", "exit 7", "echo never", junit="r.xml") + "\n" + commands("build", "echo x > y")
    result = workshop.run("test", {**package(), "intray.toml": toml})
    assert (result["kind"], result["exit_code"], result["totals"]["total"], result["cases"][0]["seconds"]) == ("declared", 7, 1, None)
    assert "$ exit 7\n" in result["log"] and "never" not in result["log"].splitlines()


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"intray.toml": "[test\n"}, "intray.toml cannot be used"),
        ({"intray.toml": "[test]\ncommands = []"}, "intray.toml cannot be used"),
        ({"intray.toml": "[test]\ncommand = 'x'"}, "intray.toml cannot be used"),
        ({"intray.toml": "[test]\ncommands = ['x']\njunit = '../x'"}, "is outside the project"),
        ({"package.json": "{"}, "not valid JSON"),
        ({"README": "nothing"}, "how to test it"),
        ({"../a.py": ""}, "is outside the project"),
    ],
)
def test_a_project_that_cannot_be_run_says_why(workshop: Workshop, files: dict[str, str], why: str) -> None:
    job = workshop.over(workshop.submit_files("test", files))
    assert (job["status"], job["attempt"]) == ("failed", 1) and why in job["error"]["message"], job["error"]


def test_what_is_made_beyond_the_limit_is_named_and_left_out(workshop: Workshop) -> None:
    toml = commands("build", "mkdir -p a b; head -c 12000000 /dev/zero > a/x; head -c 12000000 /dev/zero > b/x; echo 1 > a/y; echo 2 > b/y")
    result: dict[str, Any] = workshop.run("build", {"intray.toml": toml + '\nartifacts = ["a/*", "b/*"]'})
    assert [one["path"] for one in result["artifacts"]] == ["a/x", "a/y", "b/y"] and result["left_out"] == ["project/b/x"]
    assert len({one["name"] for one in result["artifacts"]}) == 3


def test_a_text_is_no_project(workshop: Workshop) -> None:
    answer = workshop.post("/api/v1/documents", json={"text": "hello", "jobs": ["build"]})
    failed = workshop.over(answer.json()["jobs"][0])
    assert failed["status"] == "failed" and "cannot be opened as zip" in failed["error"]["message"]

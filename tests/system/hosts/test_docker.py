"""The Dockerfile's steps and compose.yaml, proved without a Docker engine; tests/support/hosts/image.py says what is left out here."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.hosts.image import APT, PIP, Image, Stage, started
from tests.support.processes import ROOT, until

COMPOSE = ROOT / "compose.yaml"


PYTHON, PACKAGES = Path("/opt/python"), Path("/opt/intray")  # in the image, where its user may read them


def install_python(stage: Stage) -> None:
    """Instead of what `apt-get install` leaves: the Python of these tests, and where they belong its packages."""
    site = Path(sysconfig.get_path("purelib")).resolve()
    stage.binds |= {str(PYTHON): sys.base_prefix, str(PACKAGES / site.relative_to(Path(sys.prefix).resolve())): str(site)}
    stage.env["LD_LIBRARY_PATH"] = str(PYTHON / "lib")  # it was built for another place, which may be root's alone


def install_packages(stage: Stage) -> None:
    """Instead of what `pip install` leaves: an environment for the packages of these tests."""
    stage.own(str(PACKAGES / "bin")).mkdir(parents=True, exist_ok=True)
    stage.own(str(PACKAGES / "bin" / "python")).symlink_to(PYTHON / "bin" / "python3")
    stage.own(str(PACKAGES / "pyvenv.cfg")).write_text(f"home = {PYTHON / 'bin'}\n")


def test_the_steps_of_the_dockerfile_make_an_image_that_is_healthy_and_runs_as_nobody_special(tmp_path: Path) -> None:
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("only root may mount, and not everywhere")
    stage = Image(Path("/"), tmp_path / "stages", {APT: install_python, PIP: install_packages}).build()
    assert stage.run(["id", "-u"]).stdout == "10001\n"
    assert stage.run(["touch", "/app/x"]).returncode == stage.run(["touch", "/opt/intray/x"]).returncode == 1
    with started(stage) as check:
        until(lambda: check().returncode == 0, 90, (stage.folder / "log").read_text)
    assert check().returncode != 0


def test_compose_is_as_its_specification_says() -> None:
    checker = [str(Path(sys.executable).with_name("check-jsonschema")), "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*checker, str(COMPOSE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_runs_what_the_procfile_runs_with_servers_that_keep_and_check_what_they_must() -> None:
    services: dict[str, Any] = YAML(typ="safe").load(COMPOSE.read_text())["services"]
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines() if not line.startswith("#"))
    said = {name: " ".join(services[name].get("command", ["python", "manage.py", "web"])) for name in lines}
    assert {name: line.removeprefix("sh -c ") for name, line in said.items()} == lines
    assert services["worker"]["deploy"]["replicas"] == 2
    assert {"--appendonly yes", "--maxmemory-policy noeviction"} <= set(_pairs(services["redis"]["command"]))
    for name in ("postgresql", "redis"):
        assert services[name]["volumes"] and services[name]["healthcheck"]["test"]
    for name in ("web", "worker", "clock"):
        assert services[name]["depends_on"]["release"]["condition"] == "service_completed_successfully"
        assert services[name]["stop_grace_period"] == "30s"


def _pairs(words: list[str]) -> list[str]:
    return [f"{first} {second}" for first, second in zip(words, words[1:], strict=False)]

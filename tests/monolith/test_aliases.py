"""Former names that live outside this repository: each still works, and says which name to use."""

from __future__ import annotations

import importlib
import sys

import pytest
from marshmallow import Schema
from rq.utils import import_attribute

from monolith import aliases
from monolith.job_types import registry
from monolith.runner.prefork.worker import PreforkWorker
from monolith.runner.worker import execute


@pytest.mark.parametrize(("former", "name"), aliases.MODULES.items())
def test_a_former_module_is_the_module_of_today(former: str, name: str) -> None:
    with pytest.warns(FutureWarning, match=name):
        module = importlib.import_module(former)
    sys.modules.pop(former)
    assert module is importlib.import_module(name)
    assert module.__spec__ and module.__spec__.name == name


def test_rq_finds_what_messages_and_settings_name() -> None:
    with pytest.warns(FutureWarning, match="monolith.runner.prefork.worker"):
        assert import_attribute("monolith.runner.worker.PreforkWorker") is PreforkWorker
    with pytest.warns(FutureWarning):
        assert import_attribute("monolith.runner.running.run") is execute.run
    sys.modules.pop("monolith.runner.running")


def test_a_job_type_may_use_the_former_words() -> None:
    with pytest.warns(FutureWarning, match="Snooze"):
        assert registry.Later is registry.Snooze
    with pytest.warns(FutureWarning) as warnings:

        @registry.job_type(params=Schema, takes="nothing", waits=True, at_once=lambda params, document: None)
        def trial_former_words(job: registry.Job, params: dict) -> dict:
            """Declared with the words of 0.8."""
            return {}

    declared = registry._declared.pop("trial_former_words")
    assert declared.is_io_bound and declared.preview and len(warnings) == 2
    with pytest.raises(TypeError, match="'wait'"):
        registry.job_type(params=Schema, wait=True)

"""The forms and results of job types that nobody has written yet: made from any schema, shown for any result."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask, render_template
from marshmallow import Schema, fields
from marshmallow.validate import Length, OneOf, Range
from werkzeug.datastructures import MultiDict

from monolith.content import formatting
from monolith.errors import FieldError, Invalid
from monolith.job_types.registry import JobType, fixed
from monolith.web import forms


class Params(Schema):
    url = fields.String()
    top = fields.Integer(load_default=10, validate=Range(1, 100), metadata={"description": "How many"})
    share = fields.Float(allow_none=True)
    tone = fields.String(load_default="dry", validate=OneOf(("dry", "warm")))
    strict = fields.Boolean(load_default=True)
    words = fields.List(fields.String())
    note = fields.String(validate=Length(max=5000))
    nested = fields.Dict()


COUNT = JobType("count", "Count", "Count.", lambda job, params: {}, "default", Params, "document", ("url",), 1, fixed(1), 10, lambda: None)


def test_every_param_has_its_control() -> None:
    kinds = {one.param: one.kind for one in forms.controls(COUNT)}
    assert kinds == {"top": "number", "share": "number", "tone": "choice", "strict": "switch", "words": "lines", "note": "area"}


def test_a_control_knows_its_limits_and_its_default() -> None:
    top = next(one for one in forms.controls(COUNT) if one.param == "top")
    assert (top.name, top.label, top.help, top.default, top.limits) == ("count.top", "Top", "How many", 10, {"min": 1, "max": 100})


@pytest.mark.parametrize(
    ("typed", "params"),
    [
        ({}, {"strict": False}),
        ({"count.top": " 5 ", "count.strict": "on"}, {"top": "5", "strict": True}),
        ({"count.words": "a\n\n b \n", "count.tone": ""}, {"words": ["a", "b"], "strict": False}),
    ],
)
def test_what_is_left_empty_is_left_to_its_default(monkeypatch: pytest.MonkeyPatch, typed: dict[str, str], params: dict[str, Any]) -> None:
    monkeypatch.setattr(forms.registry, "discover", lambda: {"count": COUNT})
    assert forms.read_specs(MultiDict({"job": "count", **typed})) == [{"type": "count", "params": params, "priority": None}]


@pytest.mark.parametrize(
    ("pointer", "control"),
    [
        ("/file/2", "file"),
        ("/jobs/0/params/name", "analyze.name"),
        ("/jobs/1/params/words/0", "count.words"),
        ("/jobs/0/type", "job"),
        ("/params/name", "analyze.name"),
        ("/jobs/0/priority", "priority"),
        ("/tags", "tags"),
        ("/url", "text"),
        ("/nothing", ""),
        ("", ""),
    ],
)
def test_each_error_stands_at_its_control(pointer: str, control: str) -> None:
    problem = Invalid("Wrong.", errors=[FieldError("Wrong.", pointer)])
    assert forms.errors_by_control(problem, MultiDict([("job", "analyze"), ("job", "count")])) == {control: ["Wrong."]}


@pytest.fixture
def templates() -> Flask:
    app = Flask("pages", root_path=forms.__file__.rpartition("/monolith/")[0])
    for template_filter in formatting.FILTERS:
        app.add_template_filter(template_filter)
    return app


@pytest.mark.parametrize(
    ("result", "shown", "hidden"),
    [
        ({"word_count": 12345, "ok": True}, ["Word count", "12,345", "Yes"], ["True", "word_count"]),
        ({"cases": [{"name": "a", "seconds": 0.5}, {"name": "b"}]}, ["<th>Seconds</th>", "<td>"], ["{"]),
        ({"most_common": [["the", 12]], "inner": {"deep_one": [1, 2]}}, ["Deep one", "the"], ["[", "{"]),
        ({"log": "<script>alert(1)</script>", "nothing": None, "empty": []}, ["&lt;script&gt;"], ["<script>"]),
        ({}, ["returned no data"], ["{"]),
    ],
)
def test_any_result_is_shown_for_people(templates: Flask, result: dict[str, Any], shown: list[str], hidden: list[str]) -> None:
    with templates.test_request_context():
        page = render_template("jobs/results/any.html", result=result)
    assert all(one in page for one in shown), page
    assert not any(one in page for one in hidden), page


@pytest.mark.parametrize(
    "result",
    [
        {"engine": "local"},
        {
            "summary": "It counts.",
            "maturity_score": 0,
            "engine": "openai:gpt",
            "source": None,
            "readability": {"score": None, "level": "not measured"},
        },
        {
            "summary": "It counts.",
            "maturity_score": 1.0,
            "key_terms": [["a", 2], "b", {"term": "c"}],
            "sections": ["One", {"title": "Two"}],
        },
    ],
)
def test_an_analysis_is_shown_with_whatever_it_has(templates: Flask, result: dict[str, Any]) -> None:
    with templates.test_request_context():
        page = render_template("jobs/results/analyze.html", result=result)
    assert "Summary" in page
    assert "None" not in page

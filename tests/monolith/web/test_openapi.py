"""The document of the API names what the API has."""

from __future__ import annotations

import re

from flask import Flask

from tests.support.callers import Caller


def test_the_openapi_document_describes_every_route_of_the_api(app: Flask, alice: Caller) -> None:
    document = alice.get("/api/openapi.json").json
    assert document["openapi"].startswith("3.1")
    described = {
        (path, method)
        for path, methods in document["paths"].items()
        for method in methods
        if method in ("get", "post", "put", "patch", "delete")
    }
    routes = {
        (re.sub(r"<(?:\w+(?:\([^)]*\))?:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/api/v1")
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert described == routes
    assert app.test_client().get("/api/docs").status_code == 200

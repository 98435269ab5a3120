"""The instructions of the job types that ask the LLM stand in files of their own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from jobs.tools.llm import client
from jobs.tools.llm.client import PROMPTS, prompt

JOBS = PROMPTS.parent


def asks_the_llm(path: Path) -> bool:
    return any(
        isinstance(node, ast.Attribute) and ast.unparse(node) in ("client.ask", "client.ask_if_possible")
        for node in ast.walk(ast.parse(path.read_text()))
    )


ASKING = sorted(path.stem for path in JOBS.glob("*.py") if asks_the_llm(path))


def test_every_type_that_asks_has_its_instructions() -> None:
    assert "analyze" in ASKING
    assert [name for name in ASKING if len(prompt(name)) < 100] == []


def test_no_instructions_stand_in_the_code() -> None:
    """`client.ask(instructions=...)` gets what `prompt` read; `ask_if_possible` takes the name of a prompt."""
    for name in ASKING:
        calls = [node for node in ast.walk(ast.parse((JOBS / f"{name}.py").read_text())) if isinstance(node, ast.keyword)]
        assert [ast.unparse(one.value) for one in calls if one.arg == "instructions" and "prompt(" not in ast.unparse(one.value)] == []


@pytest.mark.parametrize(("content", "why"), [(None, "cannot be read"), (b"\xff\xfe", "cannot be read"), (b" \n", "is empty")])
def test_instructions_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, why: str) -> None:
    monkeypatch.setattr(client, "PROMPTS", tmp_path)
    prompt.cache_clear()
    if content is not None:
        (tmp_path / "translate.md").write_bytes(content)
    with pytest.raises(LookupError, match=f"translate.md {why}"):
        prompt("translate")

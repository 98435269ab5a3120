"""The shape of the code: imports go one way, every signature is annotated."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted([ROOT / "manage.py", *(ROOT / "monolith").rglob("*.py"), *(ROOT / "jobs").rglob("*.py"), *(ROOT / "bench").rglob("*.py")])
FILES = [path for path in FILES if "versions" not in path.parts]
TREES = {path: ast.parse(path.read_text()) for path in FILES}
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
BLUEPRINTS = ("monolith.jobs", "monolith.auth", "monolith.queue_admin")
BANNED = ("utils", "helpers", "manager", "handler", "service", "common")
# A layer imports only from layers below it, or from its own.
LAYERS = [
    ("monolith.linux.processes", "monolith.linux.orphan_guard"),
    (
        "monolith.config",
        "monolith.errors",
        "monolith.config",
        "monolith.web.strict_json",
        "monolith.server.child_processes",
        "monolith.runner.queue.redis_client",
        "monolith.linux.fork_lock",
    ),
    ("monolith.db.engine", "monolith.db.engine"),
    (
        *(
            "monolith.db.models",
            "monolith.job_types.registry",
            "monolith.job_types.interface",
            "monolith.job_types.interface",
            "monolith.job_types.interface",
        ),
        "monolith.job_types.registry",
    ),
    ("monolith.runner.ledger.insert", "monolith.runner.ledger.error_fingerprint"),
    ("monolith.runner.queue.rq_queues", "monolith.runner.ledger.pauses", "monolith.runner.ledger.audit"),
    ("monolith.runner.ledger.lifecycle", "monolith.runner.ledger.transitions", "monolith.runner.ledger.outcomes"),
    ("monolith.runner",),
]
ABOVE_RUNNER = len(LAYERS)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def imports(tree: ast.AST, *, at_import_only: bool = False) -> set[str]:
    """The modules a file imports; with `at_import_only`, those imported when it is, and not in a function."""
    inside = {id(inner) for function in functions(tree) for inner in ast.walk(function)} if at_import_only else set()
    found = set()
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name in MODULES and TREES[MODULES[name]].body}


def layer(module: str) -> int:
    for height, members in enumerate(LAYERS):
        if any(module == member or module.startswith(f"{member}.") for member in members):
            return height
    return ABOVE_RUNNER


def test_every_signature_is_annotated() -> None:
    bare = []
    for path, tree in TREES.items():
        for node in functions(tree):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
            missing = [one for one in arguments if one and one.annotation is None and one.arg not in ("self", "cls")]
            if missing or node.returns is None:
                bare.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert bare == []


def test_every_file_and_job_type_says_what_it_is_for() -> None:
    assert [str(path) for path, tree in TREES.items() if tree.body and not ast.get_docstring(tree)] == []


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("monolith.")])
def test_imports_go_down_only(module: str) -> None:
    above = {name for name in ours(imports(TREES[MODULES[module]])) if layer(name) > layer(module)}
    assert above == set()


def test_the_runner_and_what_is_below_it_know_no_flask() -> None:
    low = [name for name in MODULES if layer(name) < ABOVE_RUNNER]
    assert [name for name in low if any(one.split(".")[0].startswith("flask") for one in imports(TREES[MODULES[name]]))] == []


def test_the_worker_knows_rq_and_redis_only() -> None:
    """It could be a package of its own: whoever keeps other books than RQ's gives it hooks."""
    generic = [name for name in MODULES if name.startswith("monolith.runner.prefork") or name == "monolith.runner.prefork.worker"]
    allowed = {*sys.stdlib_module_names, "rq", "redis"}
    for name in generic:
        known = imports(TREES[MODULES[name]])
        assert {one for one in known if one.split(".")[0] not in allowed | {"monolith"}} == set(), name
        assert {one for one in ours(known) if one not in (*generic, "monolith", "monolith.runner", "monolith.linux.processes")} == set(), (
            name
        )


def test_jobs_know_the_registry_the_settings_and_their_tools_only() -> None:
    allowed = ("monolith.job_types.registry", "monolith.config")
    for name in (name for name in MODULES if name.startswith("jobs.")):
        known = ours(imports(TREES[MODULES[name]])) - {"monolith", "monolith.runner", "jobs", "jobs.tools"}
        assert {one for one in known if not one.startswith("jobs.tools") and one not in allowed} == set(), name
        assert not any(one.split(".")[0].startswith("flask") for one in imports(TREES[MODULES[name]])), name


def test_nothing_in_monolith_imports_jobs() -> None:
    found = [
        name
        for name in MODULES
        if name.startswith("monolith") and any(one.split(".")[0] == "jobs" for one in imports(TREES[MODULES[name]]))
    ]
    assert found == []


def test_only_the_command_line_knows_the_benchmarks() -> None:
    """It asks for them by name: see tests/test_project.py."""
    found = [
        name
        for name in MODULES
        if not name.startswith("bench") and any(one.split(".")[0] == "bench" for one in imports(TREES[MODULES[name]]))
    ]
    assert found == []


def test_there_are_no_import_circles() -> None:
    graph = {name: ours(imports(TREES[path], at_import_only=True)) - {name} for name, path in MODULES.items()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"an import circle: {' > '.join(error.args[1])}")


def test_statuses_change_in_lifecycle_only() -> None:
    """A status written elsewhere would be a move without its guard and its event."""
    writers = set()
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("values", "Job", "Move"):
                writers |= {path.name for keyword in node.keywords if keyword.arg == "status"}
            if isinstance(node, ast.Assign):
                writers |= {path.name for target in node.targets if ast.unparse(target).endswith("job.status")}
    assert writers <= {"lifecycle.py"}


def test_names_say_what_a_thing_is() -> None:
    words = {part for path in FILES for part in path.relative_to(ROOT).with_suffix("").parts}
    assert [word for word in words if any(banned in word for banned in BANNED)] == []


def test_sockets_to_strangers_are_opened_in_the_tools_only() -> None:
    openers = ("requests", "urllib.request", "httpx", "aiohttp", "smtplib")
    found = [name for name in MODULES if not name.startswith("jobs.tools") and imports(TREES[MODULES[name]]) & set(openers)]
    assert found == []


def test_no_secret_is_committed() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    assert [name for name in tracked if name.endswith((".sqlite3", ".env", ".pem", "secret_key"))] == []

"""The shape of the code: the ladder of imports, no circles, annotated signatures, one place that changes a status."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("monolith", "jobs", "bench", "tools")
FILES = sorted([ROOT / "manage.py", *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))])
FILES = [path for path in FILES if "versions" not in path.parts]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}

# The ladder: a folder imports only from folders on lower rungs, and from itself. The lowest rung comes first.
LADDER: tuple[tuple[str, ...], ...] = (
    ("monolith.aliases", "monolith.errors", "monolith.linux", "monolith.rate", "monolith.strict_json"),
    ("monolith.setting_rules",),
    ("monolith.config",),
    ("monolith.logs",),
    ("monolith.db", "monolith.job_types"),
    ("monolith.content",),
    ("monolith.runner.queue", "monolith.runner.llm", "monolith.runner.prefork", "jobs"),
    ("monolith.runner.ledger",),
    ("monolith.runner.webhooks",),
    ("monolith.runner.worker", "monolith.runner.admin"),
    ("monolith.runner.monitoring",),
    ("monolith.runner.scheduler",),
    ("monolith.accounts", "monolith.documents"),
    ("monolith.web",),
    ("monolith.auth", "monolith.jobs", "monolith.queue_admin"),
    ("monolith",),  # create_app
    ("monolith.server",),
    ("manage",),
    ("bench", "tools"),
)
RUNGS = {folder: height for height, folders in enumerate(LADDER) for folder in folders}
# Files without a rung: the names of the packages themselves, and what Alembic runs.
OUTSIDE = ("monolith.runner", "monolith.migrations.env")
# A lower rung may know these of a higher one.
EXCEPTIONS = {
    ("monolith.config", "monolith.runner.worker.ledger_worker.LedgerWorker"): "the default of WORKER_CLASS, for RQ to import",
    ("monolith.runner.queue.rq_queues", "monolith.runner.worker.execute.run"): "the function in messages, for RQ to import",
    ("monolith.runner.worker.command", "monolith.runner.worker.rq_message.Message"): "an option of `rq worker`",
}
# What job types may import; the first is all that most need.
OF_JOBS = ("monolith.job_types", "monolith.content", "monolith.config", "monolith.errors", "monolith.rate")
BY_NAME = {"monolith.job_types.broken_files": "JOB_PACKAGES", "monolith.aliases": "former names", "manage": "bench and chaos"}
LOADED_EARLY = ("monolith.runner.worker.ledger_worker", "jobs.tools.llm.connection_test")  # libraries, by name, to have them loaded
BANNED = ("utils", "helpers", "manager", "handler", "service", "common")


class Import(NamedTuple):
    """One import of a module of ours, at the top of a file, in a function, or as a name in a string."""

    importer: str
    module: str
    line: int
    is_late: bool

    def __str__(self) -> str:
        path = MODULES[self.importer].relative_to(ROOT)
        return f"{path}:{self.line} {path.read_text().splitlines()[self.line - 1].strip()}"


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def trees() -> Iterator[tuple[Path, ast.Module]]:
    return ((path, tree_of(path)) for path in FILES)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def imported(name: str) -> Iterator[tuple[str, int, bool]]:
    """What a file imports, with line and whether late; strings that name a module or what is in one count as late imports."""
    tree = tree_of(MODULES[name])
    late = {id(inner) for function in functions(tree) for inner in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, id(node) in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".") if name in PACKAGES else name.split(".")[:-1]
                base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if whole in MODULES else base, node.lineno, id(node) in late
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(("monolith.", "jobs.tools.")):
            named = node.value.partition(":")[0]
            if " " not in named and any(named == one or named.startswith(f"{one}.") for one in MODULES if "." in one):
                yield named, node.lineno, True


def folder_of(module: str) -> str | None:
    """The folder of the ladder that a module is in. What is in none of its folders, such as a library, has none."""
    if module in ("monolith", *OUTSIDE):
        return "monolith" if module == "monolith" else None
    return max((one for one in RUNGS if one != "monolith" and (module == one or module.startswith(f"{one}."))), key=len, default=None)


@cache
def imports() -> list[Import]:
    names = [name for name in MODULES if name != "monolith.aliases"]
    return [Import(name, module, line, late) for name in names for module, line, late in imported(name)]


def ours() -> list[Import]:
    return [one for one in imports() if one.module.split(".")[0] in (*FOLDERS, "manage")]


def test_every_file_has_a_rung_of_the_ladder() -> None:
    assert [name for name in MODULES if folder_of(name) is None and name not in OUTSIDE] == []


def test_imports_go_down_the_ladder_only() -> None:
    """Late imports and names in strings count: a dependency that is hidden is one all the same."""
    wrong = []
    for one in ours():
        own, other = folder_of(one.importer), folder_of(one.module)
        if own is None or other is None or own == other or (one.importer, one.module) in EXCEPTIONS:
            continue
        if RUNGS[other] >= RUNGS[own]:
            wrong.append(f"{one}   ({own} stands on rung {RUNGS[own]}, {other} on {RUNGS[other]})")
    assert wrong == []


def test_there_are_no_circles() -> None:
    """Neither between files nor between folders, whenever they import each other."""
    files: dict[str, set[str]] = {name: set() for name in MODULES}
    folders: dict[str, set[str]] = {folder: set() for folder in RUNGS}
    for one in ours():
        if (one.importer, one.module) in EXCEPTIONS:
            continue
        if one.module in MODULES and one.module != one.importer and one.module not in PACKAGES:
            files[one.importer].add(one.module)
        own, other = folder_of(one.importer), folder_of(one.module)
        if own and other and own != other:
            folders[own].add(other)
    for graph in (files, folders):
        try:
            tuple(TopologicalSorter(graph).static_order())
        except CycleError as error:
            pytest.fail(f"a circle: {' > '.join(error.args[1])}")


def test_job_types_import_the_registry_content_settings_and_their_own_tools() -> None:
    of_jobs = [one for one in ours() if one.importer.split(".")[0] == "jobs"]
    assert [str(one) for one in of_jobs if not one.module.startswith(("jobs", *OF_JOBS)) and one.module != "monolith"] == []
    absolute = [
        f"{MODULES[name].relative_to(ROOT)}:{node.lineno}"
        for name in MODULES
        if name.split(".")[0] == "jobs"
        for node in ast.walk(tree_of(MODULES[name]))
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "jobs"
    ]
    assert absolute == [], "job types import their tools by relative imports, so that the folder can be copied"


def test_nothing_but_the_command_line_imports_jobs() -> None:
    """`jobs` is one of JOB_PACKAGES, and may not be there."""
    assert [str(one) for one in ours() if one.module.split(".")[0] == "jobs" and one.importer.split(".")[0] == "monolith"] == []


def test_only_the_command_line_knows_the_benchmarks() -> None:
    found = [
        str(one) for one in ours() if one.module.split(".")[0] == "bench" and not one.importer.startswith(("bench", "manage", "tools"))
    ]
    assert found == []


def test_nothing_is_imported_by_a_string() -> None:
    """But the packages of JOB_PACKAGES, and libraries that a process loads before it forks."""
    allowed = (*BY_NAME, *LOADED_EARLY)
    found = []
    for name, path in MODULES.items():
        for node in ast.walk(tree_of(path)):
            called = isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__") and not name.startswith(("bench", *allowed)):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")  # type: ignore[attr-defined]
    assert found == []


def test_what_stands_below_the_pages_knows_no_flask() -> None:
    below = RUNGS["monolith.web"]
    low = [name for name in MODULES if (folder := folder_of(name)) and RUNGS[folder] < below]
    assert [str(one) for one in imports() if one.importer in low and one.module.split(".")[0].startswith("flask")] == []


def test_the_generic_worker_knows_rq_and_redis_only() -> None:
    """It could be a package of its own: whoever keeps other books than RQ's gives it hooks."""
    allowed = {*sys.stdlib_module_names, "rq", "redis"}
    generic = [one for one in imports() if one.importer.startswith("monolith.runner.prefork")]
    own = ("monolith.runner.prefork", "monolith.linux")
    assert [str(one) for one in generic if one.module.split(".")[0] not in allowed and not one.module.startswith(own)] == []


def test_each_folder_opens_with_what_it_is() -> None:
    """Three lines: what lives here, who calls it, what it must not import."""
    wrong = {}
    for path in (MODULES[name] for name in sorted(PACKAGES) if name != "monolith" and not name.startswith(("tools", "bench"))):
        lines = (ast.get_docstring(tree_of(path)) or "").splitlines()
        if len(lines) != 3:
            wrong[str(path.relative_to(ROOT))] = lines
    assert wrong == {}


def test_the_runner_has_no_module_of_its_own() -> None:
    assert [path.name for path in (ROOT / "monolith" / "runner").glob("*.py")] == ["__init__.py"]


def test_every_signature_is_annotated() -> None:
    bare = []
    for path, tree in trees():
        for node in functions(tree):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
            missing = [one for one in arguments if one and one.annotation is None and one.arg not in ("self", "cls")]
            if missing or node.returns is None:
                bare.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert bare == []


def test_every_file_and_job_type_says_what_it_is_for() -> None:
    assert [str(path) for path, tree in trees() if tree.body and not ast.get_docstring(tree)] == []


def test_statuses_change_in_lifecycle_only() -> None:
    """A status written elsewhere would be a transition without its guard and its event."""
    writers = set()
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("values", "Job", "Transition"):
                writers |= {path.name for keyword in node.keywords if keyword.arg == "status"}
            if isinstance(node, ast.Assign):
                writers |= {path.name for target in node.targets if ast.unparse(target).endswith("job.status")}
    assert writers <= {"lifecycle.py"}


def test_one_class_name_is_one_thing() -> None:
    """Schemas, parameters and tests apart: `Params` is what each job type declares."""
    names: dict[str, list[str]] = {}
    for path, tree in trees():
        if path.parts[len(ROOT.parts)] not in ("bench", "tools"):
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef) and node.name not in ("Params", "Meta"):
                    names.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    twice = {name: places for name, places in names.items() if len(places) > 1}
    assert {name: places for name, places in twice.items() if name not in DECLARED_ABOVE} == {}


# A protocol that job types see, or the model of a table, and the class that stands for it elsewhere.
DECLARED_ABOVE = ("Document", "Job", "FailedJob", "Delivery", "Webhook")


def test_names_say_what_a_thing_is() -> None:
    words = {part for path in FILES for part in path.relative_to(ROOT).with_suffix("").parts}
    assert [word for word in words if any(banned in word for banned in BANNED)] == []


def test_strangers_are_reached_through_content_and_the_tools_only() -> None:
    openers = ("requests", "urllib.request", "httpx", "aiohttp", "smtplib")
    allowed = ("monolith.content", "jobs.tools", "bench", "tools")
    assert [str(one) for one in imports() if one.module in openers and not one.importer.startswith(allowed)] == []


def test_no_secret_is_committed() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    assert [name for name in tracked if name.endswith((".sqlite3", ".env", ".pem", "secret_key"))] == []

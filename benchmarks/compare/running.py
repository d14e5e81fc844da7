"""The parent's side of the protocol of contenders: see benchmarks/contenders/protocol.py."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.compare.catalogue import SCRIPTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.compare.catalogue import Contender

SECONDS = 900.0
"""Time that a contender has for any answer; compiling and loading count."""
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "true", "PYTHONDONTWRITEBYTECODE": ""}


class ContenderError(Exception):
    """A contender cannot load, answered with an error, or ended: the reason."""


class ContenderProcess:
    """A running contender. `log` takes what its libraries print."""

    def __init__(self, contender: Contender, model: str, threads: int, log: Path = Path(os.devnull)) -> None:
        self.name = contender.name
        self.started = time.perf_counter()
        command = [contender.environment.python, SCRIPTS / contender.script, model, str(threads), *contender.options]
        with log.open("ab") as messages:
            self._process = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                env={**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": str(threads)},
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self.pid = self._process.pid
        self._ready = False

    def rank(self, pools: Sequence[tuple[str, Sequence[str]]]) -> dict[str, Any]:
        """{"seconds", "cpu_seconds", "peak_mb", "scores"} of pools that come at once. Raises ContenderError."""
        return self._ask({"pools": [[query, list(documents)] for query, documents in pools]})

    def report(self) -> dict[str, Any]:
        """{"peak_mb", "versions"}. Raises ContenderError."""
        return self._ask({"report": True})

    def wait_until_ready(self) -> None:
        """Raises ContenderError with the reason if it cannot load."""
        if not self._ready:
            self._read()
            self._ready = True

    def pause(self) -> None:
        """Stops all its threads until `resume`, so that those that spin or poll take no time from others, where the system can."""
        if hasattr(signal, "SIGSTOP") and self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if hasattr(signal, "SIGCONT") and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.resume()
        with contextlib.suppress(OSError):
            self._requests.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self.wait_until_ready()
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
        except OSError as error:
            raise ContenderError(f"ended with exit code {self._process.wait()}") from error
        return self._read()

    def _read(self) -> dict[str, Any]:
        if os.name == "posix" and not select.select([self._answers], [], [], SECONDS)[0]:
            self._process.kill()
            raise ContenderError(f"gave no answer in {SECONDS:.0f} s")
        line = self._answers.readline()
        if not line:
            raise ContenderError(f"ended with exit code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ContenderError(answer["error"])
        return answer


@contextlib.contextmanager
def only(process: ContenderProcess) -> Iterator[None]:
    """The time in which a paused contender runs."""
    process.resume()
    try:
        yield
    finally:
        process.pause()

"""Runs contenders in turn on the same pools, weights and threads, each in its own environment and process; computes ratios."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
import venv
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resift.metrics import ndcg, top_overlap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.pools.reading import CandidatePool

REPOSITORY = Path(__file__).parent.parent
ENVIRONMENTS = REPOSITORY / ".bench"
COLD_STARTS = 3


@dataclass(frozen=True)
class Contender:
    """A system under test: how to install it and which script of `contenders/` runs it."""

    name: str
    script: str
    requirements: tuple[str, ...]
    takes: str
    """which model it loads: artifact or checkpoint"""
    interpreter: str = ""
    """interpreter of an environment that has the requirements already; empty: an environment is created"""

    @property
    def python(self) -> Path:
        """The interpreter of the virtual environment that `install` creates, or `interpreter`."""
        return Path(self.interpreter) if self.interpreter else ENVIRONMENTS / self.name / "bin" / "python"

    def install(self) -> None:
        """Creates the environment at the first call. Delete the folder .bench to recreate all environments."""
        if self.interpreter:
            return
        stamp = ENVIRONMENTS / self.name / "installed.json"
        content = json.dumps(self.requirements)
        pip = [self.python, "-m", "pip", "install", "-q"]
        if not stamp.exists() or stamp.read_text() != content:
            print(f"# installing {self.name}: {' '.join(self.requirements)}", flush=True)
            venv.create(ENVIRONMENTS / self.name, with_pip=True, clear=True)
            subprocess.run([*pip, "-c", REPOSITORY / "constraints" / "test.txt", *self.requirements], check=True, cwd=REPOSITORY)
            stamp.write_text(content)
        elif any(
            requirement.startswith(str(REPOSITORY)) for requirement in self.requirements
        ):  # the working tree may have changed since
            subprocess.run([*pip, "--no-deps", "--force-reinstall", REPOSITORY], check=True)


RESIFT = Contender("resift", "run_resift.py", (str(REPOSITORY),), "artifact")
PYTORCH = Contender("sentence-transformers", "run_sentence_transformers.py", ("sentence-transformers>=6", "torch"), "checkpoint")


class Process:
    """A running contender."""

    def __init__(self, contender: Contender, model: str, threads: int) -> None:
        script = REPOSITORY / "benchmarks" / "contenders" / contender.script
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
        self._process = subprocess.Popen(
            [contender.python, script, model, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended with exit code {self._process.wait()}; run it by hand to see why")
        return json.loads(line)

    def close(self) -> None:
        self._process.communicate()


@dataclass
class Measurements:
    """Times and scores of one contender on a list of pools."""

    seconds: list[list[float]] = field(default_factory=list)
    """one list per pool, one value per repeat"""
    scores: list[np.ndarray] = field(default_factory=list)


def compare(
    contenders: Sequence[Contender], models: dict[str, str], pools: Sequence[CandidatePool], *, threads: int, repeats: int
) -> dict[str, Any]:
    """Runs every pool through every contender in turn, `repeats` times, and compares each with the last contender."""
    for item in contenders:
        item.install()
    cold = {item.name: cold_start(item, models[item.takes], pools[0], threads) for item in contenders}
    processes = {item.name: Process(item, models[item.takes], threads) for item in contenders}
    measurements = {name: Measurements([[] for _ in pools]) for name in processes}
    for process in processes.values():
        process.ask(query=pools[0].query, documents=pools[0].documents)
    for repeat in range(repeats):
        for number, pool in enumerate(pools):
            names = list(processes)
            for name in names if (repeat + number) % 2 else reversed(names):
                answer = processes[name].ask(query=pool.query, documents=pool.documents)
                measurements[name].seconds[number].append(answer["seconds"])
                if repeat == 0:
                    measurements[name].scores.append(np.array(answer["scores"]))
    facts = {name: process.ask() for name, process in processes.items()}
    for process in processes.values():
        process.close()
    baseline = contenders[-1].name
    rows = [
        row(name, measurements, baseline, pools) | {"cold_start_s": cold[name], "peak_mb": facts[name]["peak_mb"]}
        for name in measurements
    ]
    return {"rows": rows, "versions": {name: fact["versions"] for name, fact in facts.items()}}


def cold_start(contender: Contender, model: str, pool: CandidatePool, threads: int) -> float:
    """Median seconds from starting the process to its first scores."""
    seconds = []
    for _ in range(COLD_STARTS):
        start = time.perf_counter()
        process = Process(contender, model, threads)
        process.ask(query=pool.query, documents=pool.documents)
        seconds.append(time.perf_counter() - start)
        process.close()
    return statistics.median(seconds)


def row(name: str, measurements: dict[str, Measurements], baseline: str, pools: Sequence[CandidatePool]) -> dict[str, Any]:
    """One contender's row: p50 is the median over pools of each pool's median; p95 is over all measurements."""
    this, other = measurements[name], measurements[baseline]
    medians = [statistics.median(seconds) for seconds in this.seconds]
    ratios = [
        theirs / mine
        for mine_all, their_all in zip(this.seconds, other.seconds, strict=True)
        for mine, theirs in zip(mine_all, their_all, strict=True)
    ]
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    labels = [[int(fields["label"]) for fields in pool.fields] for pool in pools] if "label" in pools[0].fields[0] else None
    return {
        "system": name,
        "p50_ms": 1000 * statistics.median(medians),
        "p95_ms": 1000 * float(np.percentile(np.concatenate(this.seconds), 95)),
        "times_faster": middle,
        "quartiles": [low, high],
        "overlap@10": float(np.mean([top_overlap(*pair) for pair in zip(other.scores, this.scores, strict=True)])),
        "nDCG@10": None if labels is None else float(np.mean([ndcg(*pair) for pair in zip(labels, this.scores, strict=True)])),
    }


def machine() -> dict[str, str | int | None]:
    """The machine on which the figures were measured."""
    model = None
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else None
    return {
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": sys.version.split()[0],
    }

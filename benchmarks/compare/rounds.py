"""Measures: every request goes to one contender after the other, while all others stand still."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.compare.running import ContenderError, ContenderProcess, only
from benchmarks.compare.turns import START, Turn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.compare.cases import Case
    from benchmarks.compare.catalogue import Contender
    from benchmarks.compare.turns import KeptTurns

STARTS = 2
"""Starts of each contender, in turn."""
SHORT_POOLS = 3
"""Pools that a started process ranks before its memory is read; none is longer than those of the first case."""
WARM_UP = 4
"""Documents of each case that a contender ranks before it is measured."""


@dataclass
class Measurement:
    """A run: who takes part, what was measured, and who dropped out why."""

    contenders: list[Contender]
    models: Mapping[str, str]
    """by contender: the model to load"""
    identities: Mapping[str, str]
    store: KeptTurns
    logs: Path
    """folder for what the libraries print"""
    until: float = float("inf")
    """time.monotonic() after which no turn begins"""
    turns: list[Turn] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    """by contender that dropped out: why"""

    @property
    def running(self) -> list[Contender]:
        return [contender for contender in self.contenders if contender.name not in self.reasons]

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.until

    def drop(self, name: str, reason: str) -> dict[str, Any]:
        """Leaves a contender out from now on; returns its answer."""
        self.reasons[name] = reason
        tell(f"{name} drops out: {reason}")
        return {"error": reason}

    def start(self, contender: Contender, threads: int) -> ContenderProcess:
        return ContenderProcess(contender, self.models[contender.name], threads, self.logs / f"{contender.name}.log")

    def take(self, blank: Turn, answers: Mapping[str, Mapping[str, Any]]) -> None:
        """Keeps the answers of a turn, errors among them, so that a resumed run does not try their contenders again."""
        turn = replace(blank, identities={name: self.identities[name] for name in answers}, answers=answers)
        self.store.add(turn)
        self.turns.append(turn.only(answers))

    def blank(self, case: str, digest: str, group: int, repeat: int) -> Turn:
        """The turn to be measured, without answers."""
        names = [contender.name for contender in self.running]
        return Turn(case, digest, group, repeat, {name: self.identities[name] for name in names}, {})

    def recall(self, blank: Turn) -> bool:
        """Whether the turn is kept from an earlier run; it is taken over then."""
        found = self.store.find(blank)
        if not found:
            return False
        for name in blank.identities:
            if reason := found.answers[name].get("error"):
                self.drop(name, reason)
        self.turns.append(found.only(blank.identities))
        return True


def measure_starts(measurement: Measurement, case: Case) -> None:
    """Seconds from the start of a process to its first ranking, and its peak memory after a few pools of `case`."""
    pools = [(pool.query, pool.documents) for pool in case.pools[:SHORT_POOLS]]
    for repeat in range(STARTS):
        blank = measurement.blank(START, case.digest(case.pools[:SHORT_POOLS]), 0, repeat)
        if measurement.recall(blank):
            continue
        answers: dict[str, dict[str, Any]] = {}
        for contender in measurement.running:
            tell(f"start {repeat + 1} of {STARTS}: {contender.name}")
            process = measurement.start(contender, case.threads)
            try:
                process.rank(pools[:1])
                seconds = time.perf_counter() - process.started
                for pool in pools[1:]:
                    process.rank([pool])
                answers[contender.name] = {"seconds": seconds, **process.report()}
            except ContenderError as error:
                answers[contender.name] = measurement.drop(contender.name, str(error))
            finally:
                process.close()
        measurement.take(blank, answers)


def measure_cases(measurement: Measurement, cases: Sequence[Case], repeats: int) -> None:
    """Measures cases of one number of threads; the contenders are loaded once, at the first turn that is not kept."""
    processes: dict[str, ContenderProcess] = {}
    try:
        for repeat, number, case in _requests(cases, repeats):
            blank = measurement.blank(case.name, case.digest(case.groups[number]), number, repeat)
            if measurement.recall(blank) or measurement.is_over:
                continue
            if not processes:
                processes.update(_loaded(measurement, cases))
                blank = measurement.blank(*blank.key)
            measurement.take(blank, _turn(measurement, processes, case, blank))
    finally:
        for process in processes.values():
            process.close()


def _requests(cases: Sequence[Case], repeats: int) -> Iterator[tuple[int, int, Case]]:
    """Repeat, number and case of every request: the first of each case, then the second, so a run out of time has some of all."""
    for repeat in range(repeats):
        for number in range(max(len(case.groups) for case in cases)):
            yield from ((repeat, number, case) for case in cases if number < len(case.groups))


def _loaded(measurement: Measurement, cases: Sequence[Case]) -> dict[str, ContenderProcess]:
    """Processes that have loaded their models and ranked a few documents of each case."""
    processes = {}
    for contender in measurement.running:
        tell(f"loading {contender.name}, {cases[0].threads} threads")
        process = processes[contender.name] = measurement.start(contender, cases[0].threads)
        try:
            for case in cases:
                pool = case.pools[0]
                process.rank([(pool.query, pool.documents[:WARM_UP])])
        except ContenderError as error:
            measurement.drop(contender.name, str(error))
        process.pause()
    return processes


def _turn(
    measurement: Measurement, processes: Mapping[str, ContenderProcess], case: Case, blank: Turn
) -> dict[str, dict[str, Any]]:
    """The answers of all contenders to one request; each turn begins with another contender."""
    names = [contender.name for contender in measurement.running]
    start = (blank.group + blank.repeat) % len(names) if names else 0
    request = [(pool.query, pool.documents) for pool in case.groups[blank.group]]
    answers = {}
    tell(f"{case.name}, request {blank.group + 1} of {len(case.groups)}, repeat {blank.repeat + 1}")
    for name in names[start:] + names[:start]:
        try:
            with only(processes[name]):
                before = busy_seconds()
                begin = time.perf_counter()
                answer = processes[name].rank(request)
                elapsed, busy = time.perf_counter() - begin, busy_seconds() - before
            answers[name] = {**answer, "elsewhere": max(0.0, busy - answer["cpu_seconds"]) / elapsed}
        except ContenderError as error:
            answers[name] = measurement.drop(name, str(error))
    return answers


def busy_seconds(stat: Path = Path("/proc/stat")) -> float:
    """Seconds that all processors have worked or were taken by other machines; 0 where the system does not say.

    https://man7.org/linux/man-pages/man5/proc_stat.5.html
    """
    try:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.read_text().split("\n", 1)[0].split()[1:9])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def tell(message: str) -> None:
    print(f"# {time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)

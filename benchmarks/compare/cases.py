"""The cases: which pools, how many candidates, how many threads, one query at a time or many at once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks import material
from benchmarks.compare.texts import generated_pools
from benchmarks.material import LABELLED, gate_pools, pools_of_size
from resift import machine
from resift.pools.source import read_pools

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from resift.pools.reading import CandidatePool

SIZES = (20, 30, 50, 100)
TOKENS = (10, 45, *material.TOKENS)
LONG = 200
"""Tokens of a pair from which generated pools have only LONG_CANDIDATES, so that a run has an end."""
CANDIDATES, LONG_CANDIDATES = 30, 10
GENERATED = 4
"""At most as many generated pools of a length."""
AT_ONCE = 8
"""Queries that come at once in the cases named many."""
THREADS = (1, 2)
"""Numbers of threads beside all cores."""


@dataclass(frozen=True)
class Case:
    """Pools that every contender ranks under the same conditions."""

    name: str
    pools: tuple[CandidatePool, ...] = field(repr=False)
    threads: int
    at_once: int = 1
    """queries that come at once"""
    labelled: bool = False

    @property
    def groups(self) -> list[tuple[CandidatePool, ...]]:
        """The pools of each request."""
        return [self.pools[start : start + self.at_once] for start in range(0, len(self.pools), self.at_once)]

    def digest(self, group: Sequence[CandidatePool]) -> str:
        """Tells requests of different texts or threads apart."""
        content = [self.threads, [[pool.query, pool.documents] for pool in group]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def every_case(queries: int, length: Callable[[str, str], int]) -> list[Case]:
    """All cases, with `queries` pools each (generated ones and those of the further files: at most GENERATED).

    Labelled pools are those of DL 2019, NQ-UTD and SciFact where they lie beside the project, and otherwise the built-in gate's.
    """
    cores = machine.usable_cores()
    found = {name: list(read_pools(path)) for name, path in LABELLED.items() if path.exists()}
    first = next(iter(LABELLED))
    main = first if first in found else "gate"
    pools = found.pop(main, None) or gate_pools()
    sized = {size: tuple(pools_of_size(pools, size, queries)) for size in SIZES}
    few = min(queries, GENERATED)
    cases = [Case(f"{main}-{size}", sized[size], cores, labelled=True) for size in SIZES]
    cases += [
        Case(f"{name}-{CANDIDATES}", tuple(pools_of_size(more, CANDIDATES, few)), cores, labelled=True)
        for name, more in found.items()
    ]
    cases += [
        Case(
            f"words-{tokens}", tuple(generated_pools(tokens, LONG_CANDIDATES if tokens > LONG else CANDIDATES, few, length)), cores
        )
        for tokens in TOKENS
    ]
    cases.append(Case(f"{main}-{CANDIDATES}-many", tuple(pools_of_size(pools, CANDIDATES, AT_ONCE)), cores, AT_ONCE))
    cases += [
        Case(f"{main}-{CANDIDATES}-{threads}-thread{'s' * (threads > 1)}", sized[CANDIDATES][:few], threads)
        for threads in THREADS
        if threads < cores
    ]
    return cases

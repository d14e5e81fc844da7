"""Inputs: the arguments of callers, checked and read once, by position, into new lists."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from itertools import groupby
from numbers import Real
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from resift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Pair = tuple[str, str]
"""A query and a document."""


class Candidates(NamedTuple):
    """A query and the documents that are scored for it."""

    query: str
    documents: list[str]


def read_candidates(query: str, documents: Sequence[str]) -> Candidates:
    """A query and its documents. Raises TypeError that names the argument that is not a str."""
    if not isinstance(query, str):
        raise TypeError(f"query is {type(query).__name__}; expected str")
    return Candidates(query, _texts(documents, "documents"))


def read_pools(queries: Sequence[str], pools: Sequence[Sequence[str]]) -> list[Candidates]:
    """Each query with its pool. Raises TypeError like `read_candidates`, and InputError if their numbers differ."""
    query_list, pool_list = _texts(queries, "queries"), _column(pools, "pools", "lists of str")
    if len(query_list) != len(pool_list):
        raise InputError(f"{len(query_list)} queries and {len(pool_list)} pools; expected one pool for each query")
    names = ["documents"] if len(pool_list) == 1 else [f"pools[{number}]" for number in range(len(pool_list))]
    return [Candidates(query, _texts(pool, name)) for query, pool, name in zip(query_list, pool_list, names, strict=True)]


def read_pairs(pairs: Iterable[tuple[str, str]]) -> list[Pair]:
    """Any iterable of pairs as a list. Raises TypeError that names the item that is not a pair of str."""
    if isinstance(pairs, str):
        raise TypeError("pairs is a str; expected (query, document) tuples")
    rows: list[Pair] = []
    for number, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"pairs[{number}] is {pair!r:.80}; expected a (query, document) tuple")
        query, document = _texts(pair, f"pairs[{number}]")
        rows.append((query, document))
    return rows


def runs(pairs: Iterable[Pair]) -> list[Candidates]:
    """The candidates of each run of consecutive pairs with the same query."""
    return [Candidates(query, [document for _, document in run]) for query, run in groupby(pairs, key=itemgetter(0))]


def _texts(texts: Sequence[str], name: str) -> list[str]:
    """The texts as a list. Raises TypeError that names the item that is not a str."""
    column: list[str] = _column(texts, name, "str")
    for position, text in enumerate(column):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{position}] is {type(text).__name__}; expected str")
    return column


def _column(values: Sequence[Any], name: str, of: str) -> list[Any]:
    """An ordered container of one dimension as a list.

    It is iterated, not indexed: a pandas Series looks [0] up in its index, which need not start at 0.
    """
    is_unsuitable = isinstance(values, str | bytes | bytearray | Mapping | AbstractSet)
    if is_unsuitable or not hasattr(values, "__len__") or not hasattr(values, "__iter__"):
        raise TypeError(f"{name} is {type(values).__name__}; expected a list of {of}")
    dimensions = getattr(values, "ndim", 1)
    if dimensions != 1:
        raise TypeError(f"{name} is {type(values).__name__} of {dimensions} dimensions; expected one column, a list of {of}")
    return list(values)


def check_count(name: str, value: object) -> None:
    """Raises TypeError unless `value` is an int or None, and InputError if it is below 1. `name`: the parameter's name."""
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {type(value).__name__}; expected an int or None")
    if value < 1:
        raise InputError(f"{name} is {value}; expected 1 or more, or None for all")


def deadline_after(budget_ms: float) -> float:
    """The time, by time.monotonic, that is `budget_ms` from now.

    Raises TypeError for anything but a number, and InputError for one that is not above 0 and finite.
    """
    if not isinstance(budget_ms, Real) or isinstance(budget_ms, bool):
        raise TypeError(f"budget_ms is {type(budget_ms).__name__}; expected a number of milliseconds")
    try:
        milliseconds = float(budget_ms)
    except OverflowError:  # an int or a fraction beyond floating point
        milliseconds = math.inf if budget_ms > 0 else -math.inf
    if not 0 < milliseconds < math.inf:
        raise InputError(f"budget_ms is {milliseconds}; expected a number of milliseconds above 0")
    return time.monotonic() + milliseconds / 1000

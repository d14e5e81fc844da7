"""Inputs: the arguments of callers, checked and read once, by position, into new lists."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from itertools import groupby
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from resift.counts import as_int
from resift.documents import DEFAULT
from resift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from resift.documents import Document, DocumentTemplate

Pair = tuple[str, str]
"""A query, and what the model reads of a document."""


class Candidates(NamedTuple):
    """A query and the documents that are scored for it."""

    query: str
    documents: list[str]
    """what the model reads of each"""
    originals: Sequence[Document]
    """the caller's own, in the same order"""
    instruction: str | None = None
    """what is put before the query; None: the prompt that the model declares"""


def read_candidates(
    query: str, documents: Sequence[Document], template: DocumentTemplate = DEFAULT, instruction: str | None = None
) -> Candidates:
    """A query and its documents, of which `template` says what the model reads.

    Raises TypeError that names the argument that is neither str nor, as a document, a mapping, and InputError for a mapping that
    has none of the template's fields.
    """
    _check_text(query, "query")
    return _candidates(query, documents, "documents", template, instruction)


def read_pools(
    queries: Sequence[str],
    pools: Sequence[Sequence[Document]],
    template: DocumentTemplate = DEFAULT,
    instruction: str | None = None,
) -> list[Candidates]:
    """Each query with its pool. Raises like `read_candidates`, and InputError if their numbers differ."""
    query_list, pool_list = _column(queries, "queries", "str"), _column(pools, "pools", "lists of str")
    for position, query in enumerate(query_list):
        _check_text(query, f"queries[{position}]")
    if len(query_list) != len(pool_list):
        raise InputError(f"{len(query_list)} queries and {len(pool_list)} pools; expected one pool for each query")
    names = ["documents"] if len(pool_list) == 1 else [f"pools[{number}]" for number in range(len(pool_list))]
    rows = zip(query_list, pool_list, names, strict=True)
    return [_candidates(query, pool, name, template, instruction) for query, pool, name in rows]


def read_pairs(pairs: Iterable[tuple[str, Document]], template: DocumentTemplate = DEFAULT) -> list[Pair]:
    """Any iterable of pairs as a list, with what the model reads of each document. Raises like `read_candidates`."""
    if isinstance(pairs, str):
        raise TypeError("pairs is a str; expected (query, document) tuples")
    rows: list[Pair] = []
    for number, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"pairs[{number}] is {pair!r:.80}; expected a (query, document) tuple")
        query, document = pair
        _check_text(query, f"pairs[{number}][0]")
        rows.append((query, template.text(document, f"pairs[{number}][1]")))
    return rows


def runs(pairs: Iterable[Pair], instruction: str | None = None) -> list[Candidates]:
    """The candidates of each run of consecutive pairs with the same query."""
    _check_instruction(instruction)
    texts = [(query, [text for _, text in run]) for query, run in groupby(pairs, key=operator.itemgetter(0))]
    return [Candidates(query, documents, documents, instruction) for query, documents in texts]


def _check_instruction(instruction: object) -> None:
    if instruction is not None:
        _check_text(instruction, "instruction")


def _check_text(text: object, name: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{name} is {type(text).__name__}; expected str")


def _candidates(
    query: str, documents: Sequence[Document], name: str, template: DocumentTemplate, instruction: str | None
) -> Candidates:
    _check_instruction(instruction)
    originals: list[Document] = _column(documents, name, "str, or of mappings with a text")
    texts = [template.text(document, f"{name}[{position}]") for position, document in enumerate(originals)]
    return Candidates(query, texts, originals, instruction)


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


@overload
def check_count(name: str, value: int) -> int: ...
@overload
def check_count(name: str, value: object) -> int | None: ...
def check_count(name: str, value: object) -> int | None:
    """A count as an int, also from numpy's whole numbers; None stays. `name`: the parameter's name.

    Raises TypeError for anything else, and InputError if it is below 1.
    """
    if value is None:
        return None
    count = as_int(value)
    if count is None:
        raise TypeError(f"{name} is {type(value).__name__}; expected an int or None")
    if count < 1:
        raise InputError(f"{name} is {count}; expected 1 or more, or None for all")
    return count


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

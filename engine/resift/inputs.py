"""What callers hand in: checked, and read once, by position, into lists of our own."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from resift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Pair = tuple[str, str]
"""A query and a document."""


def pool_pairs(query: str, documents: Sequence[str]) -> list[Pair]:
    """Every document with its query. Raises TypeError that names what is not a str."""
    if not isinstance(query, str):
        raise TypeError(f"query is {type(query).__name__}; expected str")
    return [(query, document) for document in _texts(documents, "documents")]


def read_pools(queries: Sequence[str], pools: Sequence[Sequence[str]]) -> list[list[Pair]]:
    """The pairs of each query and its pool. Raises TypeError as `pool_pairs` does, InputError if there are not as many of both."""
    asked, given = _texts(queries, "queries"), _column(pools, "pools", "lists of str")
    if len(asked) != len(given):
        raise InputError(f"{len(asked)} queries and {len(given)} pools; expected one pool for each query")
    names = ["documents"] if len(given) == 1 else [f"pools[{number}]" for number in range(len(given))]
    return [[(query, document) for document in _texts(pool, name)] for query, pool, name in zip(asked, given, names, strict=True)]


def read_pairs(pairs: Iterable[tuple[str, str]]) -> list[Pair]:
    """Any iterable of pairs as a list. Raises TypeError that names what is not a pair of str."""
    if isinstance(pairs, str):
        raise TypeError("pairs is a str; expected (query, document) tuples")
    rows: list[Pair] = []
    for number, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"pairs[{number}] is {pair!r:.80}; expected a (query, document) tuple")
        query, document = _texts(pair, f"pairs[{number}]")
        rows.append((query, document))
    return rows


def _texts(texts: Sequence[str], name: str) -> list[str]:
    """The texts as a list. Raises TypeError that names what is not a str."""
    found: list[str] = _column(texts, name, "str")
    for position, text in enumerate(found):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{position}] is {type(text).__name__}; expected str")
    return found


def _column(values: Sequence[Any], name: str, of: str) -> list[Any]:
    """An ordered container of one dimension as a list.

    It is iterated, not indexed: a pandas Series answers [0] by its index, which need not begin at 0.
    """
    refused = isinstance(values, str | bytes | bytearray | Mapping | AbstractSet)
    if refused or not hasattr(values, "__len__") or not hasattr(values, "__iter__"):
        raise TypeError(f"{name} is {type(values).__name__}; expected a list of {of}")
    dimensions = getattr(values, "ndim", 1)
    if dimensions != 1:
        raise TypeError(f"{name} is {type(values).__name__} of {dimensions} dimensions; expected one column, a list of {of}")
    return list(values)


def check_top_k(top_k: int | None) -> None:
    """Raises TypeError unless it is an int or None, InputError below 1."""
    if top_k is None:
        return
    if not isinstance(top_k, int) or isinstance(top_k, bool):
        raise TypeError(f"top_k is {type(top_k).__name__}; expected an int or None")
    if top_k < 1:
        raise InputError(f"top_k is {top_k}; expected 1 or more, or None for all")

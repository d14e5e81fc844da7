"""Reads a file of scores that another engine gave to the same candidates."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from resift.errors import InputError
from resift.pools.reading import decode_object, read_lines
from resift.pools.trec import run_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from resift.pools.reading import CandidatePool

    PoolScores = dict[int, tuple[tuple[float, ...], float]]
    """by position of the candidate: its sort key, lowest first, and its score (NaN: none)"""

RUN_LINE = "'qid Q0 docid rank score tag'"
RANKED_POOL_LINE = '{"qid", "results": [{"docid" or "index", "score"}, ...]} as `resift rerank --pools` writes'


def read_scores(
    path: str | os.PathLike[str], pools: Sequence[CandidatePool]
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Keys and scores, float64[n] each, of every pool's candidates, by query id; see `resift.evaluate.systems.Columns`.

    The file is a TREC run, whose documents rank by score and then by rank, or JSON Lines of ranked pools, best first. It may hold
    other queries and documents, too. Candidates that it does not hold rank last, in the order given, with the score NaN.
    Raises InputError that names a line for anything else, and for a query of which the file holds no candidate.
    """
    places = {str(pool.qid): _places(pool) for pool in pools}
    scores: dict[str, PoolScores] = {qid: {} for qid in places}
    seen_qids: set[str] = set()
    is_json: bool | None = None
    for number, line in read_lines(path):
        where = f"{os.fspath(path)}, line {number}"
        is_json = line.lstrip().startswith(b"{") if is_json is None else is_json
        if is_json:
            _add_pool(decode_object(line, where), where, places, scores, seen_qids)
        else:
            _add_line(line, number, where, places, scores)
    for qid, pool_scores in scores.items():
        if not pool_scores:
            raise InputError(f"{os.fspath(path)} holds no candidate of query {qid!r}; expected scores of every query evaluated")
    sizes = {str(pool.qid): len(pool.documents) for pool in pools}
    return {qid: _columns(pool_scores, sizes[qid]) for qid, pool_scores in scores.items()}


def _places(pool: CandidatePool) -> dict[str | int, int]:
    """The position of each candidate, by its docid and by its position in the file."""
    by_docid: dict[str | int, int] = {str(fields["docid"]): place for place, fields in enumerate(pool.fields)}
    return by_docid | {index: place for place, index in enumerate(pool.given_positions())}


def _add_pool(
    row: dict[str, Any], where: str, places: dict[str, dict[str | int, int]], scores: dict[str, PoolScores], seen_qids: set[str]
) -> None:
    qid, results = row.get("qid"), row.get("results")
    if not isinstance(qid, str | int) or isinstance(qid, bool) or not isinstance(results, list):
        raise InputError(f"{where}: expected {RANKED_POOL_LINE}, or a TREC run ({RUN_LINE} a line)")
    if str(qid) not in places:
        return
    if str(qid) in seen_qids:
        raise InputError(f"{where}: query {str(qid)!r} again; expected each once")
    seen_qids.add(str(qid))
    for rank, result in enumerate(results):
        place = _place(result, places[str(qid)], f"{where}: results[{rank}]")
        if place is None:
            continue
        here = f"{where}: results[{rank}]"
        _add(scores[str(qid)], place, (rank,), _score(result.get("score"), here), here)


def _score(score: object, where: str) -> float:
    """The score as a number; NaN for null."""
    if score is None:
        return math.nan
    if isinstance(score, int | float) and not isinstance(score, bool):
        with suppress(OverflowError):  # an int beyond floating point
            return float(score)
    raise InputError(f"{where} has the score {score!r:.80}; expected a number or null")


def _place(result: Any, places: dict[str | int, int], where: str) -> int | None:
    """The position of a result's candidate; None if it is not in the pool."""
    docid, index = (result.get("docid"), result.get("index")) if isinstance(result, dict) else (None, None)
    if isinstance(docid, str | int) and not isinstance(docid, bool):
        return places.get(str(docid))
    if docid is None and isinstance(index, int) and not isinstance(index, bool) and index >= 0:
        return places.get(index)
    raise InputError(f"{where} has neither a 'docid' nor an 'index'; expected {RANKED_POOL_LINE}")


def _add_line(line: bytes, number: int, where: str, places: dict[str, dict[str | int, int]], scores: dict[str, PoolScores]) -> None:
    try:
        qid, docid, rank, score = run_line(line, where)
    except InputError as error:
        raise InputError(f"{error}, or {RANKED_POOL_LINE}") from error
    place = places.get(qid, {}).get(docid)
    if place is not None:
        _add(scores[qid], place, (-score, rank, number), score, where)


def _add(pool_scores: PoolScores, place: int, key: tuple[float, ...], score: float, where: str) -> None:
    if place in pool_scores:
        raise InputError(f"{where}: this document occurs again for this query; expected each once")
    pool_scores[place] = key, score


def _columns(pool_scores: PoolScores, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    order = sorted(pool_scores, key=lambda place: pool_scores[place][0])
    order += [place for place in range(size) if place not in pool_scores]
    keys, scores = np.empty(size), np.full(size, np.nan)
    keys[order] = -np.arange(size)
    scores[list(pool_scores)] = [score for _, score in pool_scores.values()]
    return keys, scores

"""Reads TREC's formats: runs, and relevance judgements (qrels), also as BEIR writes them."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from resift.errors import InputError
from resift.pools.reading import decode_text, read_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Qrels = dict[str, dict[str, int]]
"""qrels[qid][docid]: the label of each judged document, a relevance grade of 0 or more."""

LABEL_LIMIT = 1_000_000
"""Highest label allowed, as trec_eval's nDCG takes memory for every grade up to the highest."""
INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
QRELS_FORM = (
    "expected 'qid 0 docid label' separated by spaces or tabs, or, as in BEIR, query-id, corpus-id, score separated by tabs"
)
RUN_FORM = "expected 'qid Q0 docid rank score tag' separated by spaces or tabs"
HEADS = ("query-id", "query_id", "qid")
"""First columns that mark the header of BEIR's judgements."""
BEIR_COLUMNS, QRELS_COLUMNS, RUN_COLUMNS = 3, 4, 6


def read_qrels(path: str | os.PathLike[str]) -> Qrels:
    """The judgements of every query.

    Lines are `qid iteration docid label` (trec_eval's qrels), or BEIR's `query-id corpus-id score` separated by tabs, with or
    without a header. A label below 0, as TREC gives to junk, counts as 0: not relevant. Raises InputError that names the file,
    and the line if one is at fault, for labels that are not integers and for a document judged twice, which trec_eval refuses, too.
    """
    name, qrels = os.fspath(path), Qrels()
    is_beir: bool | None = None
    for number, line in read_lines(path):
        where = f"{name}, line {number}"
        if is_beir is None:
            parts = decode_text(line, where).split("\t")
            has_header = parts[0] in HEADS
            is_beir = len(parts) == BEIR_COLUMNS and (has_header or len(columns(line, where)) != QRELS_COLUMNS)
            if has_header:
                continue
        qid, docid, label = _judgement(line, where, is_beir=is_beir)
        judged = qrels.setdefault(qid, {})
        if docid in judged:
            raise InputError(f"{where}: document {docid!r} is judged again for query {qid!r}; expected each once")
        judged[docid] = checked_label(label, where)
    if not qrels:
        raise InputError(f"{name} holds no judgements; {QRELS_FORM}")
    return qrels


def find_qrels(pools: str | os.PathLike[str]) -> Path | None:
    """The file NAME.qrels next to a file of pools, NAME being its name up to the first dot; None if there is none."""
    path = Path(pools)
    if not path.name or path.name == "-":
        return None
    found = path.with_name(f"{path.name.split('.')[0]}.qrels")
    return found if found.is_file() else None


def checked_label(label: int, where: str) -> int:
    """The label; 0 for one below 0. Raises InputError that begins with `where` if it is above LABEL_LIMIT."""
    if label > LABEL_LIMIT:
        raise InputError(f"{where}: the label is {label!s:.80}; expected a relevance grade of at most {LABEL_LIMIT}")
    return max(0, label)


def read_run(
    path: str | os.PathLike[str], lines: Iterable[tuple[int, bytes]], depth: int | None = None
) -> Iterator[tuple[str, dict[str, int]]]:
    """Each query of a run, with its best `depth` docids (None: all), best first, and the number of the line that names each.

    `lines` are the numbered lines of the file `path`. Documents are sorted by score, highest first, as in trec_eval; those with
    equal scores by rank, and those with equal ranks in the file's order (trec_eval sorts equal scores by docid, which ignores the
    run's ranking). A query's lines must be consecutive, so that only one query is in memory at once. Raises InputError that names
    the line.
    """
    name, current, finished = os.fspath(path), None, set[str]()
    ranked: dict[str, tuple[float, int, int]] = {}
    for number, line in lines:
        where = f"{name}, line {number}"
        qid, docid, rank, score = run_line(line, where)
        if qid != current:
            if current is not None:
                yield current, _best_first(ranked, depth)
                finished.add(current)
            if qid in finished:
                raise InputError(f"{where}: query {qid!r} again, after others; sort the run by query: sort -s -k1,1 {name}")
            current, ranked = qid, {}
        if docid in ranked:
            before = ranked[docid][2]
            raise InputError(f"{where}: document {docid!r} again for query {qid!r}; it is in line {before}; expected each once")
        ranked[docid] = (-score, rank, number)
    if current is not None:
        yield current, _best_first(ranked, depth)


def run_line(line: bytes, where: str) -> tuple[str, str, int, float]:
    """The qid, docid, rank and score in a line of a run. Raises InputError that begins with `where`."""
    found = columns(line, where)
    if len(found) != RUN_COLUMNS:
        raise InputError(f"{where}: {len(found)} columns; {RUN_FORM}")
    qid, _, docid, rank, score, _ = found
    return qid, docid, _integer(rank, f"{where}: the rank"), _score(score, where)


def is_run_line(line: bytes) -> bool:
    """Whether a line seems to be one of a run: of six columns, with a number as the rank and as the score."""
    found = line.split()
    try:
        return len(found) == RUN_COLUMNS and b"\0" not in line and math.isfinite(float(found[4])) and int(found[3]) is not None
    except ValueError:
        return False


def columns(line: bytes, where: str) -> list[str]:
    """The columns, separated by ASCII white space as in trec_eval. Raises InputError for a NUL or text that is not UTF-8."""
    decode_text(line, where)
    return [part.decode() for part in line.split()]


def _judgement(line: bytes, where: str, *, is_beir: bool) -> tuple[str, str, int]:
    found = decode_text(line, where).split("\t") if is_beir else columns(line, where)
    if len(found) != (BEIR_COLUMNS if is_beir else QRELS_COLUMNS) or not all(found):
        raise InputError(f"{where}: {len(found)} columns; {QRELS_FORM}")
    return found[0], found[-2], _integer(found[-1].strip(), f"{where}: the label")


def _best_first(ranked: dict[str, tuple[float, int, int]], depth: int | None) -> dict[str, int]:
    return {docid: ranked[docid][2] for docid in sorted(ranked, key=ranked.__getitem__)[:depth]}


def _integer(text: str, what: str) -> int:
    if not INTEGER.fullmatch(text):
        raise InputError(f"{what} is {text!r:.80}; expected an integer")
    return int(text)


def _score(text: str, where: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise InputError(f"{where}: the score is {text!r:.80}; expected a number")
    return score

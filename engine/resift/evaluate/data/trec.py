"""TREC's formats: runs, and relevance judgements (qrels), also as BEIR writes them."""

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
"""Highest label: trec_eval's nDCG takes memory for every grade up to the highest."""
INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
QRELS_FORM = (
    "expected 'qid 0 docid label' separated by spaces or tabs, or, as in BEIR, query-id, corpus-id, score separated by tabs"
)
RUN_FORM = "expected 'qid Q0 docid rank score tag' separated by spaces or tabs"
HEADS = ("query-id", "query_id", "qid")
"""What the header of BEIR's judgements begins with."""
BEIR_COLUMNS, QRELS_COLUMNS, RUN_COLUMNS = 3, 4, 6


def read_qrels(path: str | os.PathLike[str]) -> Qrels:
    """The judgements of every query.

    Lines are `qid iteration docid label` (trec_eval's qrels), or BEIR's `query-id corpus-id score` separated by tabs, with or
    without a header. A label below 0, as TREC gives to junk, counts as 0: not relevant. Raises InputError that names the file,
    and the line if one is at fault: labels that are not integers, and a document judged twice, which trec_eval refuses as well.
    """
    name, qrels = os.fspath(path), Qrels()
    beir: bool | None = None
    for number, line in read_lines(path):
        where = f"{name}, line {number}"
        if beir is None:
            parts = decode_text(line, where).split("\t")
            headed = parts[0] in HEADS
            beir = len(parts) == BEIR_COLUMNS and (headed or len(columns(line, where)) != QRELS_COLUMNS)
            if headed:
                continue
        qid, docid, label = _judgement(line, where, beir=beir)
        judged = qrels.setdefault(qid, {})
        if docid in judged:
            raise InputError(f"{where}: document {docid!r} is judged again for query {qid!r}; expected each once")
        judged[docid] = checked_label(label, where)
    if not qrels:
        raise InputError(f"{name} holds no judgements; {QRELS_FORM}")
    return qrels


def qrels_beside(pools: str | os.PathLike[str]) -> Path | None:
    """The judgements of a file of pools, if they are there: NAME.qrels next to it, NAME being its name up to the first dot."""
    path = Path(pools)
    if not path.name or path.name == "-":
        return None
    found = path.with_name(f"{path.name.split('.')[0]}.qrels")
    return found if found.is_file() else None


def checked_label(label: int, where: str) -> int:
    """The label; 0 for one below 0. Raises InputError that begins with `where` if it is above LABEL_LIMIT."""
    if label > LABEL_LIMIT:
        raise InputError(f"{where}: the label is {label}; expected a relevance grade of at most {LABEL_LIMIT}")
    return max(0, label)


def read_run(path: str | os.PathLike[str], lines: Iterable[tuple[int, bytes]], depth: int) -> Iterator[tuple[str, dict[str, int]]]:
    """Each query of a run, with its docids, best first, and the line that names each; from
    the numbered lines of the file `path`; at most `depth` docids a query.

    Documents are sorted by score, highest first, as trec_eval does; equal scores by rank, and equal ranks as the file has them
    (trec_eval sorts equal scores by docid, which is no ranking). A query's lines must be together, so that only one query is
    held at once. Raises InputError that names the line.
    """
    name, asked, done = os.fspath(path), None, set[str]()
    ranked: dict[str, tuple[float, int, int]] = {}
    for number, line in lines:
        where = f"{name}, line {number}"
        qid, docid, rank, score = run_line(line, where)
        if qid != asked:
            if asked is not None:
                yield asked, _best_first(ranked, depth)
                done.add(asked)
            if qid in done:
                raise InputError(f"{where}: query {qid!r} again, after others; sort the run by query: sort -s -k1,1 {name}")
            asked, ranked = qid, {}
        if docid in ranked:
            before = ranked[docid][2]
            raise InputError(f"{where}: document {docid!r} again for query {qid!r}; it is in line {before}; expected each once")
        ranked[docid] = (-score, rank, number)
    if asked is not None:
        yield asked, _best_first(ranked, depth)


def run_line(line: bytes, where: str) -> tuple[str, str, int, float]:
    """The qid, docid, rank and score in a line of a run. Raises InputError that begins with `where`."""
    found = columns(line, where)
    if len(found) != RUN_COLUMNS:
        raise InputError(f"{where}: {len(found)} columns; {RUN_FORM}")
    qid, _, docid, rank, score, _ = found
    return qid, docid, _integer(rank, f"{where}: the rank"), _score(score, where)


def columns(line: bytes, where: str) -> list[str]:
    """What ASCII white space separates, as in trec_eval. Raises InputError for a NUL or for what is not UTF-8."""
    decode_text(line, where)
    return [part.decode() for part in line.split()]


def _judgement(line: bytes, where: str, *, beir: bool) -> tuple[str, str, int]:
    found = decode_text(line, where).split("\t") if beir else columns(line, where)
    if len(found) != (BEIR_COLUMNS if beir else QRELS_COLUMNS) or not all(found):
        raise InputError(f"{where}: {len(found)} columns; {QRELS_FORM}")
    return found[0], found[-2], _integer(found[-1].strip(), f"{where}: the label")


def _best_first(ranked: dict[str, tuple[float, int, int]], depth: int) -> dict[str, int]:
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

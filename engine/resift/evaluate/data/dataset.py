"""Reads queries with their candidates and judgements from candidate pools, a BEIR folder or a TREC run."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from resift.documents import DocumentTemplate
from resift.errors import InputError
from resift.evaluate.data.labelled_pools import read_labelled_pools
from resift.evaluate.data.retrieve import bm25
from resift.evaluate.data.selection import QuerySelection
from resift.inputs import check_count
from resift.pools.beir import Texts, find_judgements, read_corpus, read_queries
from resift.pools.reading import read_lines
from resift.pools.runs import RunTexts
from resift.pools.source import Source
from resift.pools.trec import RUN_COLUMNS, Qrels, columns, find_qrels, read_qrels, read_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from resift.pools.reading import CandidatePool

    PathLike = str | os.PathLike[str]
    Format = Literal["pools", "beir", "trec"]

DEPTH = 100
"""Default number of candidates in a pool that is made from a run or by retrieval."""
BEYOND = 2
"""Candidates read beyond the depth: one may be the query itself, and another shows that the pool is cut."""
FORMATS = (
    'candidate pools as JSON Lines ({"qid", "query", "candidates": [{"docid", "text", "label"}]} a line) or as a table with a row '
    "for each pair (.csv, .tsv or .parquet), "
    "a BEIR folder (corpus.jsonl, queries.jsonl, qrels/test.tsv), or a TREC run ('qid Q0 docid rank score tag' a line)"
)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Candidate pools, and the judgements by which their rankings are evaluated."""

    name: str
    format: Format
    pools: list[CandidatePool]
    """pools of two candidates or more (of which the query itself is one, if it was left out), in the data's order; `qid` is a str,
    and every candidate's fields have a "docid", a str"""
    qrels: Qrels
    """all judgements of the pools' queries, also of documents outside the pools: qrels[qid][docid] is a label of 0 or more"""
    left_out: dict[str, int]
    """number of queries that are not evaluated, by reason"""
    self_candidates: int = 0
    """number of queries that were documents of their own corpus, each left out of its candidates; see `is_query`"""
    cut_at: int | None = None
    """number of candidates to which pools were cut; None if none has more candidates"""

    def labels(self, pool: CandidatePool) -> list[int]:
        """The label of each of the pool's candidates, in order; 0 where it is not judged."""
        judged = self.qrels.get(str(pool.qid), {})
        return [judged.get(fields["docid"], 0) for fields in pool.fields]

    def first(self, n: int) -> Dataset:
        """The dataset with the first `n` candidates of every pool, and all its judgements. Raises InputError if n is below 1."""
        n = check_count("n", n)
        is_cut = any(len(pool.documents) > n for pool in self.pools)
        return replace(self, pools=[pool.first(n) for pool in self.pools], cut_at=n if is_cut else self.cut_at)


def read_dataset(  # noqa: PLR0913 - each is an option of one or two formats
    path: PathLike,
    *,
    qrels: PathLike | None = None,
    run: PathLike | None = None,
    retrieve: str | None = None,
    split: str | None = None,
    texts: PathLike | None = None,
    queries: PathLike | None = None,
    depth: int | None = None,
    limit: int | None = None,
    document_template: str = "auto",
    every_query: bool = False,
) -> Dataset:
    """Reads labelled data in one of three formats, recognized by the contents of `path`.

    - Candidate pools as JSON Lines, CSV, TSV or Parquet (see `resift.pools`). Labels are the candidates' "label" (null or missing:
      not judged), or come from `qrels`, or else from NAME.qrels next to the file if it exists (NAME: up to the first dot). With
      such a file, the field is ignored, and qid and docid are required; without one, a missing qid is the number of the line or of
      the pool's first row, missing docids the positions from 0.
    - A BEIR folder: corpus.jsonl, queries.jsonl (each may end in .gz), and qrels/SPLIT.tsv (`split`, default "test") or `qrels`.
      Its pools come from the TREC run `run`, or by BM25 with retrieve="bm25".
    - A TREC run, with `qrels` (or NAME.qrels), `texts` (documents as in BEIR's corpus.jsonl) and `queries` (as in BEIR's
      queries.jsonl, or lines of qid, tab, query).

    Candidates keep the order given; those of a run are sorted by score, then by rank. `depth` is the maximum number of
    candidates in a pool (None: all of a pools file, otherwise DEPTH), and `limit` that of queries: reading ends after so many
    queries that are selected. Evaluated texts are kept in memory; everything else is read as a stream.
    `document_template`: what is read of a candidate with fields, as in `Settings`; "auto": its text, and in BEIR's corpora its
    title and its text.

    `QuerySelection` says which queries are left out, and why, and what `every_query` changes; `left_out` counts them by reason. A
    query whose relevant documents are all outside its pool stays: every ranking of it has the value 0, as in trec_eval. A query
    that is a document of the corpus, under the same id, is left out of its own candidates, as in BEIR (see `is_query`);
    `self_candidates` counts such queries. In a pools file, the text must agree as well (see `without_query`).

    Raises InputError that names file and line for bad data, an option that the format does not use, and data without a query that
    can be evaluated; ExtraError if retrieve="bm25" lacks the extra `eval`.
    """
    depth, limit = check_count("depth", depth), check_count("limit", limit)
    template = None if document_template == "auto" else DocumentTemplate.parse(document_template)
    source = os.fspath(path)
    selection = QuerySelection(source, limit, every_query=every_query)
    beir_options, run_options = {"run": run, "retrieve": retrieve, "split": split}, {"texts": texts, "queries": queries}
    if source and Path(source).is_dir():
        _refuse(f"{source} is a folder", run_options)
        found = Texts.find(Path(source))
        if found is None:
            raise InputError(f"{source} is a folder without corpus.jsonl or queries.jsonl; expected {FORMATS}")
        _check_makers(source, run, retrieve)
        judged = read_qrels(find_judgements(Path(source), split or "test") if qrels is None else qrels)
        if run is None:
            pools = _retrieved_pools(found, judged, selection, depth or DEPTH, template)
        else:
            pools = _run_pools(os.fspath(run), read_lines(run), judged, selection, found, depth or DEPTH, template)
        return _dataset(source, "beir", pools, selection, depth or DEPTH)
    with closing(Source(path, template=template)) as opened:
        judgements = find_qrels(source) if qrels is None else qrels
        if opened.form != "run" and not _is_other_text(opened):
            _refuse(f"{source} holds candidate pools", beir_options | run_options)
            return _dataset(source, "pools", _labelled_pools(opened, judgements, selection, depth), selection, depth)
        _refuse(f"{source} is a TREC run", beir_options)
        if judgements is None or texts is None or queries is None:
            required = {"qrels": judgements, "texts": texts, "queries": queries}
            missing = ", ".join(f"--{name} FILE" for name, value in required.items() if value is None)
            raise InputError(f"{source} is a TREC run; its evaluation also needs {missing}")
        files = Texts(texts, queries)
        pools = _run_pools(source, opened.lines(), read_qrels(judgements), selection, files, depth or DEPTH, template)
        return _dataset(source, "trec", pools, selection, depth or DEPTH)


def _is_other_text(source: Source) -> bool:
    """Whether the first line of what `Source` takes for JSON Lines is none, but may be a bad line of a run.

    Raises InputError if it can be neither, or if there is none.
    """
    if source.form != "jsonl":
        return False
    if source.first is None:
        raise InputError(f"{source.name} holds no lines; expected {FORMATS}")
    number, line = source.first
    if line.lstrip().startswith(b"{"):
        return False
    width = len(columns(line, f"{source.name}, line {number}"))
    if width != RUN_COLUMNS:
        raise InputError(f"{source.name}, line {number}: neither a JSON object nor 6 columns, but {width}; expected {FORMATS}")
    return True


def _check_makers(source: str, run: PathLike | None, retrieve: str | None) -> None:
    """Raises InputError unless exactly one of the two options says where a BEIR folder's pools come from."""
    if retrieve not in (None, "bm25"):
        raise InputError(f"--retrieve is {retrieve!r}; expected bm25")
    if (run is None) == (retrieve is None):
        found = "neither --run nor --retrieve is given" if run is None else "both --run and --retrieve are given"
        raise InputError(
            f"{source}: {found}; a BEIR folder's pools come from a TREC run (--run FILE) or from BM25 (--retrieve bm25)"
        )


def _labelled_pools(
    source: Source, judgements: PathLike | None, selection: QuerySelection, depth: int | None
) -> Iterator[CandidatePool]:
    qrels = None if judgements is None else read_qrels(judgements)
    for _, pool in selection.select(read_labelled_pools(source, qrels, selection), qrels or ()):
        selection.is_cut |= depth is not None and len(pool.documents) > depth
        yield pool.first(depth)


def _retrieved_pools(
    files: Texts, qrels: Qrels, selection: QuerySelection, depth: int, template: DocumentTemplate | None
) -> Iterator[CandidatePool]:
    items = ((qid, qrels.get(qid, {}), query) for qid, query in read_queries(files.queries))
    queries = dict(selection.select(items, qrels))
    rankings = bm25(read_corpus(files.corpus, None, template), queries, depth + BEYOND)
    documents = dict(read_corpus(files.corpus, {docid for docids in rankings.values() for docid in docids}, template))
    texts = RunTexts("", files, queries, documents)
    for qid, docids in rankings.items():
        yield texts.pool(qid, {}, selection.docids(qid, docids, depth))


def _run_pools(  # noqa: PLR0913 - the files of a run, and how to select
    run: str,
    lines: Iterable[tuple[int, bytes]],
    qrels: Qrels,
    selection: QuerySelection,
    files: Texts,
    depth: int,
    template: DocumentTemplate | None,
) -> Iterator[CandidatePool]:
    rankings = read_run(run, lines, depth + BEYOND)
    chosen = dict(selection.select(((qid, qrels.get(qid, {}), ranked) for qid, ranked in rankings), qrels))
    texts = RunTexts.read(run, files, chosen, template)
    for qid, ranked in chosen.items():
        yield texts.pool(qid, ranked, selection.docids(qid, ranked, depth))


def _dataset(source: str, form: Format, pools: Iterable[CandidatePool], selection: QuerySelection, depth: int | None) -> Dataset:
    evaluated, qrels = selection.keep(pools, depth)
    cut_at = depth if selection.is_cut else None
    return Dataset(_name(source), form, evaluated, qrels, dict(selection.left_out), len(selection.self_candidates), cut_at)


def _name(source: str) -> str:
    """The name of the file or folder up to the first dot."""
    path = Path(source)
    return path.name.split(".")[0] or path.resolve().name


def _refuse(description: str, options: Mapping[str, object]) -> None:
    """Raises InputError if one of the options is given; `description` says what the data is."""
    unusable = [f"--{name}" for name, value in options.items() if value is not None]
    if unusable:
        raise InputError(f"{description}; {', '.join(unusable)} cannot be used with it")

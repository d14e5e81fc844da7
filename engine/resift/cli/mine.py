"""`resift mine DATA --out PAIRS`: finds hard negatives for queries with known answers. Needs the extra `mine`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resift.artifact.folder import closed
from resift.cli import values
from resift.cli.comparison import aligned
from resift.cli.meter import StageMeter
from resift.cli.options import EXIT_CODES, add_engine, add_template, settings
from resift.cli.streams import paragraph, write_json, write_lines
from resift.errors import InputError
from resift.files.names import path_text
from resift.files.outputs import check_outputs

if TYPE_CHECKING:
    from resift.cli.options import Commands
    from resift.mining.collection import Collection
    from resift.mining.mine import Mined
    from resift.mining.options import MiningOptions
    from resift.retrieval.vectors import Vectors

EPILOG = f"""DATA is one of
  documents (JSON Lines, lines, .csv, .tsv, .parquet), with --queries FILE:
    {{"query", "docids": ["id", ...]}} or {{"query", "positive": ["text", ...]}}
    a line, or as BEIR's with --qrels FILE
  a BEIR folder (corpus.jsonl, queries.jsonl, qrels/train.tsv)
  labelled pools in any form that `resift eval` reads; the candidates are then
    those of the pools, in the order given

PAIRS gets a query a line, with documents that answer it and others that do not:
  {{"qid", "query", "positive": [{{"docid", "text", "score"}}],
   "negative": [{{"docid", "text", "score", "rank"}}]}}
where score is the teacher's logit. Files named .gz are gzip.

examples:
  resift mine corpus.jsonl --queries queries.jsonl --out pairs.jsonl.gz
  resift mine ./scifact --out pairs.jsonl.gz --negatives 15
  resift mine pools.jsonl.gz --out pairs.jsonl.gz --trust-labels
  resift mine corpus.jsonl --queries queries.jsonl --out pairs.jsonl.gz \\
    --no-teacher --ranks 20-200 --vectors documents.npy queries.npy

Nothing is written if no query has a negative.

{EXIT_CODES}"""


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "mine",
        help="find hard negatives for queries with known answers",
        description="Find, for queries whose answers are known, documents that look like answers and are none, to train on.",
        epilog=EPILOG,
    )
    command.add_argument("data", metavar="DATA", type=values.file_name, help="documents, a BEIR folder or labelled pools")
    command.add_argument("--out", "-o", type=values.path, required=True, metavar="PAIRS", help="file of training pairs to write")
    command.add_argument("--overwrite", action="store_true", help="replace PAIRS if it exists")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    _add_data(command)
    _add_candidates(command)
    _add_negatives(command)
    add_engine(command)
    command.set_defaults(run=run, usage_error=command.error)


def _add_data(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("data")
    group.add_argument("--queries", type=values.file_name, metavar="FILE", help="queries with their answers, or a TREC run's")
    group.add_argument("--qrels", type=values.file_name, metavar="FILE", help="judgements: TREC's qrels, or BEIR's")
    group.add_argument(
        "--split", type=values.file_name, metavar="NAME", help="the BEIR folder's judgements qrels/NAME.tsv (default: train)"
    )
    group.add_argument(
        "--run", type=values.file_name, dest="trec_run", metavar="FILE", help="a TREC run that makes the BEIR folder's pools"
    )
    group.add_argument("--texts", type=values.file_name, metavar="FILE", help="the TREC run's documents, as in BEIR's corpus")
    group.add_argument("--limit", type=values.whole(), metavar="N", help="only the first N queries")
    group.add_argument(
        "--relevant-from", type=values.whole(), default=1, metavar="N", help="the lowest label that is an answer (default: 1)"
    )
    group.add_argument(
        "--same-source",
        type=values.text,
        metavar="FIELD",
        help="a field that parts of one source share, such as a file's name: parts of an answer's source are no negatives",
    )
    add_template(group)


def _add_candidates(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("candidates")
    group.add_argument(
        "--ranks", type=_ranks, metavar="FIRST-LAST", help="ranks of the negatives (default: 1-100, or 10-100 with --no-teacher)"
    )
    group.add_argument("--stem", action="store_true", help="BM25 takes English plurals for singulars")
    vectors = group.add_mutually_exclusive_group()
    vectors.add_argument(
        "--vectors",
        type=values.file_name,
        nargs=2,
        metavar=("DOCUMENTS", "QUERIES"),
        help="retrieve by these, too: .npy files with a vector for each document and each query, in the order of their files",
    )
    vectors.add_argument(
        "--embedder", type=values.file_name, metavar="MODEL", help="retrieve by this model of sentence-transformers, too"
    )


def _add_negatives(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("negatives")
    group.add_argument("--negatives", type=values.whole(), default=7, metavar="N", help="at most so many a query (default: 7)")
    group.add_argument("--positives", type=values.whole(), default=5, metavar="N", help="at most so many a query (default: 5)")
    teacher = group.add_mutually_exclusive_group()
    teacher.add_argument(
        "--teacher", type=values.file_name, metavar="MODEL", help="the artifact that reads candidates (default: the default model)"
    )
    teacher.add_argument("--no-teacher", action="store_true", help="take candidates unread")
    group.add_argument(
        "--max-share",
        type=values.number("a share above 0, and at most 1, such as 0.95", lambda value: 0 < value <= 1),
        default=0.95,
        metavar="SHARE",
        help="of the probability (the logit's sigmoid) that the teacher gives to the best answer, the most that a negative may "
        "have (default: 0.95)",
    )
    group.add_argument(
        "--margin",
        type=values.number("a number of 0 or more", lambda value: 0 <= value < 1e6),
        default=0.0,
        metavar="M",
        help="how far below the best answer, in logits, a negative must be (default: 0)",
    )
    group.add_argument(
        "--max-overlap",
        type=values.number("a share above 0, and at most 1, such as 0.6", lambda value: 0 < value <= 1),
        default=0.6,
        metavar="SHARE",
        help="share of runs of four words from which on a document is a copy of an answer (default: 0.6)",
    )
    group.add_argument(
        "--trust-labels", action="store_true", help="a document with the label 0 is a negative, whatever the teacher says"
    )
    group.add_argument("--hardest", action="store_true", help="take the best ranks first (default: a random sample of the ranks)")
    group.add_argument("--seed", type=values.whole(0), default=0, metavar="N", help="seed of the sample (default: 0)")


def _ranks(found: str) -> tuple[int, int]:
    first, dash, last = found.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= values.LARGEST_COUNT):
        raise argparse.ArgumentTypeError(f"expected two rising ranks from 1, such as 10-100; found {found!r:.80}")
    return int(first), int(last)


def run(arguments: argparse.Namespace) -> int:
    """Mines, writes the pairs and prints what was left out."""
    from resift.mining.mine import mine
    from resift.mining.teacher import Teacher
    from resift.pools.training_pairs import write_pairs
    from resift.reranker import Reranker

    options = _options(arguments)
    check_outputs([arguments.out], _inputs(arguments), overwrite=arguments.overwrite, closed=closed)
    engine = settings(arguments)
    collection = _collection(arguments, engine.document_template)
    vectors = _vectors(arguments, collection)
    with StageMeter() as meter:
        retrieval = {"vectors": vectors, "stem": arguments.stem, "progress": meter}
        if arguments.no_teacher:
            found = mine(collection, options, **retrieval)
        else:
            with Reranker.load(arguments.teacher, settings=engine) as reranker:
                found = mine(collection, options, teacher=Teacher(reranker), **retrieval)
    write_pairs(arguments.out, found.pairs)
    if arguments.json:
        write_json(_record(found, arguments.out))
    else:
        write_lines(_lines(found, arguments.out, options))
    return 0


def _options(arguments: argparse.Namespace) -> MiningOptions:
    from resift.mining.options import WITH_TEACHER, WITHOUT_TEACHER, MiningOptions

    names = ("negatives", "positives", "max_share", "margin", "max_overlap", "trust_labels", "hardest", "seed")
    ranks = arguments.ranks or (WITHOUT_TEACHER if arguments.no_teacher else WITH_TEACHER)
    try:
        return MiningOptions(ranks=ranks, **{name: getattr(arguments, name) for name in names})
    except InputError as error:
        arguments.usage_error(str(error))
        raise


def _collection(arguments: argparse.Namespace, template: str) -> Collection:
    """What DATA is, by its kind and the options: a corpus, or labelled pools."""
    from resift.mining.corpus import read_corpus
    from resift.mining.labelled import read_labelled

    common: dict[str, Any] = {"relevant_from": arguments.relevant_from, "group": arguments.same_source}
    common |= {"document_template": template, "qrels": arguments.qrels, "split": arguments.split, "limit": arguments.limit}
    is_folder = Path(arguments.data).is_dir()
    if arguments.texts is None and arguments.trec_run is None and (arguments.queries is not None or is_folder):
        return read_corpus(arguments.data, arguments.queries, **common)
    if is_folder and arguments.split is None and arguments.qrels is None:
        common["split"] = "train"
    return read_labelled(arguments.data, run=arguments.trec_run, texts=arguments.texts, queries=arguments.queries, **common)


def _vectors(arguments: argparse.Namespace, collection: Collection) -> Vectors | None:
    from resift.retrieval.embedder import embed
    from resift.retrieval.vectors import Vectors

    if arguments.vectors:
        return Vectors.read(*arguments.vectors)
    if arguments.embedder is None:
        return None
    collection.queries = [replace(query, row=row) for row, query in enumerate(collection.queries)]
    collection.rows = len(collection.queries)
    texts = [document.text for document in collection.documents[: collection.size]]
    return embed(arguments.embedder, texts, [query.text for query in collection.queries])


def _inputs(arguments: argparse.Namespace) -> list[Any]:
    """Files and folders that are read."""
    named = [getattr(arguments, name) for name in ("data", "queries", "qrels", "trec_run", "texts", "settings", "teacher")]
    return [name for name in (*named, *(arguments.vectors or ())) if name is not None]


def _record(found: Mined, out: Path) -> dict[str, Any]:
    return {
        "out": path_text(out),
        "queries": len(found.pairs),
        "negatives": found.negatives(),
        "fewer": found.fewer,
        "read_by_teacher": found.read_by_teacher,
        "documents_left_out": {reason: count for reason, count in found.documents_left_out.items() if count},
        "queries_left_out": {reason: count for reason, count in found.queries_left_out.items() if count},
        "notes": found.notes,
    }


def _lines(found: Mined, out: Path, options: MiningOptions) -> list[str]:
    head = f"{path_text(out)}: {len(found.pairs)} queries with {found.negatives()} negatives"
    if found.read_by_teacher:
        head += f"; the teacher read {found.read_by_teacher} pairs"
    lines = [*paragraph(head)]
    if found.fewer:
        lines += paragraph(f"{found.fewer} queries have fewer than {options.negatives} negatives")
    lines += [line for note in found.notes for line in paragraph(note)]
    rows = [
        [kind, reason, str(count)]
        for kind, counts in (("documents", found.documents_left_out), ("queries", found.queries_left_out))
        for reason, count in counts.most_common()
        if count
    ]
    return [*lines, "", *aligned([["left out", "because", "number"], *rows], left_aligned=(0, 1))] if rows else lines

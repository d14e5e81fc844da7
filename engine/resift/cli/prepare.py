"""`resift prepare DOCUMENTS --store DIR`: computes ahead what a split graph reads of documents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from resift.cli import values
from resift.cli.meter import Meter
from resift.cli.options import EXIT_CODES, add_engine, add_template, settings
from resift.cli.streams import paragraph, write_json, write_lines
from resift.files.names import path_text
from resift.machine import usable_cores
from resift.pools.documents import DocumentSource
from resift.pools.preparation import fill_store, header_of
from resift.pools.source import template_of
from resift.reranker import Reranker
from resift.states.layout import MOST_SHARDS, SHARDS

if TYPE_CHECKING:
    import argparse

    from resift.cli.options import Commands
    from resift.pools.preparation import Prepared
    from resift.settings import Settings

EPILOG = f"""DOCUMENTS is one of
  JSON Lines, {{"text": "...", ...}} in each, or plain lines
  .csv, .tsv or .parquet, a document in each row
  a BEIR folder (corpus.jsonl), of which title and text are read
Files named .gz are gzip.

Documents whose states are there already are not computed again, so a run that was interrupted or killed goes on when it is run
again. The store then serves every process that is told of it:
  resift prepare corpus.jsonl --store states
  resift serve --store states
  resift rerank "how do tides work" documents.txt --store states

Several machines share the work with --part 1/3, --part 2/3 and --part 3/3, each reading all DOCUMENTS, in one store on a file
system that all of them have, or in three whose folders are merged by copying. With --engine ray, the machines of a Ray cluster
compute, and this one reads DOCUMENTS and writes the store.

{EXIT_CODES}"""


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "prepare",
        help="compute ahead what a split graph reads of documents",
        description="Write the states of documents, which a split graph reads in place of the documents, into a store.",
        epilog=EPILOG,
    )
    command.add_argument("documents", metavar="DOCUMENTS", type=values.file_name, help="a file of documents or a BEIR folder")
    command.add_argument("--model", type=values.file_name, metavar="MODEL", help="a folder, a hub id or an embedded model's name")
    command.add_argument(
        "--workers",
        type=values.whole(1, 256),
        metavar="N",
        help="processes, which share the cores (default: 1, with a thread a core); with --engine ray, actors of --threads CPUs "
        "each (default: all)",
    )
    command.add_argument(
        "--engine", choices=["local", "ray"], default="local", help="ray: compute on a Ray cluster (default: local)"
    )
    command.add_argument("--part", type=values.part_of, default=(1, 1), metavar="I/N", help="only part I of N of the store")
    command.add_argument(
        "--shards",
        type=values.whole(1, MOST_SHARDS),
        default=SHARDS,
        metavar="N",
        help=f"files of a new store, each with one writer at a time (default: {SHARDS})",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object instead of a line")
    add_template(command)
    add_engine(command)
    command.set_defaults(run=run, usage_error=command.error)


def run(arguments: argparse.Namespace) -> int:
    """Fills the store, and prints what was done."""
    requested = settings(arguments)
    if requested.store == "auto":
        arguments.usage_error("expected --store DIR, the folder to fill")
    store = Path(requested.store)
    done = (_fill_on_ray if arguments.engine == "ray" else _fill)(arguments, requested, store)
    if arguments.json:
        write_json({"store": path_text(store), "documents": done.documents, "new": done.new, "bytes": done.bytes})
    else:
        write_lines(paragraph(_line(done, store)))
    return 0


def _fill(arguments: argparse.Namespace, requested: Settings, store: Path) -> Prepared:
    from resift.states.writer import StoreWriter

    workers = arguments.workers or 1
    if workers > 1 and requested.threads == "auto":
        requested = replace(requested, threads=max(1, usable_cores() // workers))
    documents = DocumentSource(arguments.documents, template_of(requested))
    with Reranker.load(arguments.model, settings=replace(requested, store="auto", document_cache=0)) as reranker:
        header = header_of(reranker, arguments.shards)
        with StoreWriter(store, header, part=arguments.part) as writer, Meter() as meter:
            return fill_store(
                reranker,
                documents,
                writer,
                workers=workers,
                progress=lambda so_far: meter(documents=so_far.documents, new=so_far.new, share=documents.share()),
            )


def _fill_on_ray(arguments: argparse.Namespace, requested: Settings, store: Path) -> Prepared:
    from resift.integrations import ray

    with Meter() as meter:
        return ray.fill_store(
            arguments.documents,
            store,
            model=arguments.model,
            settings=requested,
            workers=arguments.workers,
            part=arguments.part,
            shards=arguments.shards,
            progress=lambda so_far, share: meter(documents=so_far.documents, new=so_far.new, share=share),
        )


def _line(done: Prepared, store: Path) -> str:
    return (
        f"{path_text(store)}: {done.documents} documents read, {done.new} computed ({done.bytes / 1e6:.1f} MB), "
        f"{done.documents - done.new} there already, read twice or of another part"
    )

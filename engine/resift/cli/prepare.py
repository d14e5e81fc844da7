"""`resift prepare DOCUMENTS --store DIR`: computes ahead what a split graph reads of documents."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from resift.cli import values
from resift.cli.meter import Meter
from resift.cli.options import EXIT_CODES, add_engine, add_template, settings
from resift.cli.streams import paragraph, write_json, write_lines
from resift.documents import DocumentTemplate
from resift.files.names import path_text
from resift.machine import instruction_sets, usable_cores
from resift.pools.documents import DocumentSource
from resift.pools.preparation import fill_store, require_states
from resift.reranker import Reranker
from resift.runtime.providers import versions
from resift.states.layout import MOST_SHARDS, SHARDS, Header

if TYPE_CHECKING:
    import argparse

    from resift.cli.options import Commands
    from resift.pools.preparation import Prepared

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
system that all of them have, or in three whose folders are merged by copying.

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
        default=1,
        metavar="N",
        help="processes, which share the cores (default: 1, with a thread a core)",
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
    from resift.states.writer import StoreWriter

    asked = settings(arguments)
    if asked.store == "auto":
        arguments.usage_error("expected --store DIR, the folder to fill")
    store = Path(asked.store)
    if arguments.workers > 1 and asked.threads == "auto":
        asked = replace(asked, threads=max(1, usable_cores() // arguments.workers))
    template = None if asked.document_template == "auto" else DocumentTemplate.parse(asked.document_template)
    documents = DocumentSource(arguments.documents, template)
    with Reranker.load(arguments.model, settings=replace(asked, store="auto", document_cache=0)) as reranker:
        states = require_states(reranker)
        header = Header(states.identity, states.size, arguments.shards, label(reranker))
        with StoreWriter(store, header, part=arguments.part) as writer, Meter() as meter:
            done = fill_store(
                reranker,
                documents,
                writer,
                workers=arguments.workers,
                progress=lambda so_far: meter(documents=so_far.documents, new=so_far.new, share=documents.share()),
            )
    if arguments.json:
        write_json({"store": path_text(store), "documents": done.documents, "new": done.new, "bytes": done.bytes})
    else:
        write_lines(paragraph(_line(done, store)))
    return 0


def label(reranker: Reranker) -> str:
    """By what people know the states that the Reranker computes: the model, and what makes their bits."""
    model = reranker.artifact.manifest.model
    parts = [
        f"{model.id}@{model.revision[:12]}" if model.revision else model.id,
        reranker.precision,
        f"onnxruntime {versions('onnxruntime')['onnxruntime']}",
        platform.machine(),
        *sorted(instruction_sets()),
    ]
    return " ".join(parts)


def _line(done: Prepared, store: Path) -> str:
    return (
        f"{path_text(store)}: {done.documents} documents read, {done.new} computed ({done.bytes / 1e6:.1f} MB), "
        f"{done.documents - done.new} there already, read twice or of another part"
    )

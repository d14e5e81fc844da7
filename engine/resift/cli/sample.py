"""`resift sample DIR`: writes a small labelled collection in every form that the commands read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from resift.artifact.folder import closed
from resift.cli import values
from resift.cli.options import EXIT_CODES
from resift.cli.streams import write_lines
from resift.errors import OutputError
from resift.files.names import path_text
from resift.files.outputs import check_outputs, write_whole

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from resift.cli.options import Commands

POOLS = Path(__file__).with_name("sample.jsonl")
"""Pools of {"query", "candidates": [{"title", "text", "label"}]}, in an order such as a retriever that counts words gives."""
COLUMNS = ("qid", "query", "docid", "title", "text", "label")
EPILOG = f"""DIR gets twelve queries with their candidates, labelled 0 (not relevant), 1 (related) or 2
(answers the query), in every form that the commands read:
  documents.txt        the documents of the first query, one per line
  pools.jsonl          candidate pools
  pairs.csv            a row for each pair
  run.trec, run.qrels  a TREC run and its judgements
  beir/                a BEIR folder: corpus, queries and qrels/test.tsv

examples:
  resift sample sample
  resift sample sample --overwrite

{EXIT_CODES}"""
TRY = """
try:
  resift rerank "{query}" {folder}/documents.txt
  resift rerank --pools {folder}/beir --run {folder}/run.trec --out ranked.jsonl
  resift eval {folder}/pools.jsonl"""


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "sample",
        help="write a small labelled collection to try the commands with",
        description="Write a small labelled collection, in every form that the commands read, to try them with. What an "
        "earlier run wrote is left alone.",
        epilog=EPILOG,
    )
    command.add_argument("folder", metavar="DIR", type=values.path, help="folder to write; it is created if it does not exist")
    command.add_argument("--overwrite", action="store_true", help="replace files of the same names")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Writes the files and prints their names."""
    folder: Path = arguments.folder
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{path_text(folder)} is not a folder; choose another DIR")
    pools = read_sample()
    contents = {folder / name: content.encode() for name, content in files(pools).items()}
    for parent in {path.parent for path in contents}:
        parent.mkdir(parents=True, exist_ok=True)
    missing = {path: content for path, content in contents.items() if not _holds(path, content)}
    check_outputs(list(missing), [], overwrite=arguments.overwrite, closed=closed)
    for path, content in missing.items():
        write_whole(path, content)
    write_lines([path_text(path) for path in contents])
    write_lines(TRY.format(query=pools[0]["query"], folder=path_text(folder)).splitlines())
    return 0


def _holds(path: Path, content: bytes) -> bool:
    """Whether an earlier run wrote the file: several pages begin with the sample, and one folder serves them all."""
    try:
        return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content
    except OSError:  # what it holds cannot be read, so it is another's
        return False


def read_sample() -> list[dict[str, Any]]:
    """The pools, with the qids q1, q2, ... and the docids q1-1, q1-2, ..."""
    pools = [json.loads(line) for line in POOLS.read_text(encoding="utf-8").splitlines()]
    return [
        {
            "qid": f"q{number}",
            "query": pool["query"],
            "candidates": [{"docid": f"q{number}-{place}", **found} for place, found in enumerate(pool["candidates"], 1)],
        }
        for number, pool in enumerate(pools, 1)
    ]


def files(pools: list[dict[str, Any]]) -> dict[str, str]:
    """The content of every file of the sample, by name."""
    rows = [(pool, candidate, place) for pool in pools for place, candidate in enumerate(pool["candidates"])]
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({"qid": pool["qid"], "query": pool["query"], **candidate} for pool, candidate, _ in rows)
    return {
        "documents.txt": "".join(f"{candidate['text']}\n" for candidate in pools[0]["candidates"]),
        "pools.jsonl": _json_lines(pools),
        "pairs.csv": table.getvalue(),
        "run.trec": "".join(f"{pool['qid']} Q0 {each['docid']} {place + 1} {100 - place} words\n" for pool, each, place in rows),
        "run.qrels": "".join(f"{pool['qid']} 0 {each['docid']} {each['label']}\n" for pool, each, _ in rows),
        "beir/corpus.jsonl": _json_lines(
            {"_id": each["docid"], "title": each["title"], "text": each["text"]} for _, each, _ in rows
        ),
        "beir/queries.jsonl": _json_lines({"_id": pool["qid"], "text": pool["query"]} for pool in pools),
        "beir/qrels/test.tsv": "query-id\tcorpus-id\tscore\n"
        + "".join(f"{pool['qid']}\t{each['docid']}\t{each['label']}\n" for pool, each, _ in rows),
    }


def _json_lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(f"{msgspec.json.encode(row).decode()}\n" for row in rows)

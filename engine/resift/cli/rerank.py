"""`resift rerank QUERY [FILE|-]`."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import msgspec

from resift.cli.options import add_engine, settings
from resift.errors import InputError
from resift.pools import read_documents
from resift.reranker import Reranker

if TYPE_CHECKING:
    import argparse

    from resift.cli.options import Commands
    from resift.ranking import Ranking

EPILOG = """FILE holds one document a line, or one JSON object {"text": "...", ...} a line, whose other fields come out again.

examples:
  resift rerank "how do tides work" documents.txt
  resift rerank "how do tides work" documents.jsonl.gz --top-k 3 --json
  cat documents.txt | resift rerank "how do tides work" - --model ./my-artifact"""


def add(commands: Commands) -> None:
    """Adds the command."""
    import argparse

    command = commands.add_parser(
        "rerank",
        help="rank documents for a query",
        description="Rank documents for a query, best first.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("query", metavar="QUERY")
    command.add_argument("file", metavar="FILE", nargs="?", default="-", help="documents; - or nothing: standard input")
    command.add_argument("--model", metavar="MODEL", help="an artifact's folder or an embedded model's name")
    command.add_argument("--top-k", type=int, metavar="N", help="print the best N only")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    add_engine(command)
    command.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Reads, ranks, prints."""
    if asked.file == "-" and sys.stdin.isatty():
        raise InputError("no documents: name a FILE, or pipe documents in, one a line")
    pool = read_documents(asked.file, asked.query)
    with Reranker.load(asked.model, provider=asked.provider, settings=settings(asked)) as reranker:
        ranking = reranker.rerank(pool.query, pool.documents, top_k=asked.top_k)
    if asked.json:
        sys.stdout.write(msgspec.json.encode(pool.ranked(ranking, with_documents=True)).decode() + "\n")
    else:
        sys.stdout.write(table(ranking, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    return 0


def table(ranking: Ranking, width: int | None) -> str:
    """Rank, score, number of the document in the input (from 1) and text, cut to `width` columns if there is one."""
    lines = [f"{'rank':>4}  {'score':>8}  {'line':>5}  document"]
    for rank, result in enumerate(ranking, 1):
        text = " ".join(result.document.split())
        cut = f"  ({result.tokens_cut} tokens cut)" if result.tokens_cut else ""
        room = None if width is None else max(20, width - 23 - len(cut))
        if room is not None and len(text) > room:
            text = text[: room - 1] + "…"
        lines.append(f"{rank:>4}  {result.score:>8.3f}  {result.index + 1:>5}  {text}{cut}")
    if ranking.query_tokens_cut:
        lines.append(f"the query was too long: its last {ranking.query_tokens_cut} tokens were not read")
    return "\n".join(lines) + "\n"

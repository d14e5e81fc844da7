"""`resift questions CORPUS --out QUERIES`: queries for documents that have none. Needs the extra `mine`."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from resift.artifact.folder import closed
from resift.cli import values
from resift.cli.comparison import aligned
from resift.cli.meter import StageMeter
from resift.cli.options import EXIT_CODES, add_engine, add_template, settings
from resift.cli.streams import complain, paragraph, write_json, write_lines
from resift.errors import InputError
from resift.files.names import path_text
from resift.files.outputs import check_outputs, write_whole

if TYPE_CHECKING:
    import argparse
    from contextlib import AbstractContextManager

    from resift.cli.options import Commands
    from resift.questions.endpoint import Address
    from resift.questions.generate import Generated, QuestionOptions
    from resift.reranker import Reranker
    from resift.settings import Settings

EPILOG = f"""CORPUS is a file of documents (JSON Lines, lines, .csv, .tsv or .parquet) or a
BEIR folder. QUERIES gets a query a line, which `resift mine` reads:
  {{"qid", "query", "positive": [{{"docid", "text"}}], "negative": [], "method"}}

With --endpoint, a server of chat completions in OpenAI's format writes
questions. The text of the documents goes to that address and nowhere else;
proxies and keys in the environment are not used, but for the variable that
--key-variable names. An interrupted or killed run goes on if the same command
is run again; what was answered is in QUERIES.journal until then.

Without --endpoint, nothing leaves this machine, and no question is invented:
the queries are keywords from the documents' own sentences and headings
("method": "extractive"). They teach less than questions do.

examples:
  resift questions corpus.jsonl --out queries.jsonl
  resift questions corpus.jsonl --out queries.jsonl --limit 1000 \\
    --endpoint http://localhost:11434/v1 --model llama3.2
  resift questions corpus.jsonl --out queries.jsonl --max-requests 500 \\
    --endpoint https://api.example.com/v1 --model NAME --key-variable MY_KEY

{EXIT_CODES}"""
RERANKER = "reranker"


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "questions",
        help="make queries for documents that have none",
        description="Make queries that documents answer: questions by an endpoint that you name, or keywords of their own.",
        epilog=EPILOG,
    )
    command.add_argument("data", metavar="CORPUS", type=values.file_name, help="documents, or a BEIR folder")
    command.add_argument("--out", "-o", type=values.path, required=True, metavar="QUERIES", help="file of queries to write")
    command.add_argument("--overwrite", action="store_true", help="replace QUERIES if it exists")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    command.add_argument("--limit", type=values.whole(), metavar="N", help="only N documents, drawn at random (default: all)")
    command.add_argument(
        "--per-document", type=values.whole(1, 100), default=1, metavar="N", help="at most so many queries each (default: 1)"
    )
    command.add_argument("--seed", type=values.whole(0), default=0, metavar="N", help="seed of the draw (default: 0)")
    add_template(command)
    _add_endpoint(command)
    group = command.add_argument_group("round trip")
    group.add_argument(
        "--round-trip",
        type=values.whole(0),
        default=10,
        metavar="N",
        help="a query must find its own document among the best N; 0: none is left out (default: 10)",
    )
    group.add_argument(
        "--round-trip-by",
        choices=["bm25", RERANKER],
        default="bm25",
        help="reranker: the default model ranks the best 50 by BM25 (default: bm25)",
    )
    add_engine(command)
    command.set_defaults(run=run, usage_error=command.error)


def _add_endpoint(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("endpoint")
    group.add_argument("--endpoint", type=values.text, metavar="URL", help="base URL of an API, such as http://localhost:11434/v1")
    group.add_argument("--model", type=values.text, metavar="NAME", help="the endpoint's model")
    group.add_argument(
        "--key-variable", type=values.text, metavar="NAME", help="environment variable that holds the endpoint's key"
    )
    group.add_argument("--concurrency", type=values.whole(1, 256), metavar="N", help="requests at once (default: 4)")
    group.add_argument(
        "--max-requests", type=values.whole(), metavar="N", help="a budget, for resumed runs together (default: no limit)"
    )
    group.add_argument("--timeout", type=values.positive, metavar="SECONDS", help="how long an answer may take (default: 120)")
    group.add_argument(
        "--max-characters", type=values.whole(100), metavar="N", help="of a document's text that are sent (default: 6000)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Makes queries, writes them and prints what was left out."""
    from resift.mining.corpus import read_mining_corpus
    from resift.questions.generate import EXTRACTIVE, Generation

    address = _address(arguments)
    inputs = [arguments.data, *filter(None, [arguments.settings])]
    check_outputs([arguments.out], inputs, overwrite=arguments.overwrite, closed=closed)
    if address is not None and address.sends_key_in_clear():
        complain(f"the key crosses the network unencrypted, as {address.name} is not https")
    engine = settings(arguments)
    documents = read_mining_corpus(arguments.data, engine.document_template)
    with StageMeter() as meter, _loaded(arguments, engine) as reranker:
        generation = Generation(documents, _options(arguments), reranker=reranker, progress=meter)
        if address is None:
            found = generation.extract()
            _write(found, arguments)
        else:
            journal = arguments.out.with_name(f"{arguments.out.name}.journal")
            found = generation.ask(address, journal, lambda found: _write(found, arguments))
    if found.remaining:
        complain(
            f"the budget of {arguments.max_requests} requests is spent, and {found.remaining} documents were not asked about; the "
            "same command with a higher --max-requests and --overwrite goes on"
        )
    method = EXTRACTIVE if address is None else address.model
    if arguments.json:
        write_json(_record(found, arguments, method))
    else:
        write_lines(_lines(found, arguments, method))
    return 0


def _options(arguments: argparse.Namespace) -> QuestionOptions:
    from resift.questions.generate import QuestionOptions

    names = {"per_document": "per_document", "limit": "limit", "seed": "seed", "round_trip": "best"}
    names |= {"max_characters": "characters", "concurrency": "concurrency", "max_requests": "max_requests"}
    options = {field: getattr(arguments, name) for name, field in names.items()}
    return QuestionOptions(**{field: value for field, value in options.items() if value is not None})


def _address(arguments: argparse.Namespace) -> Address | None:
    """Where questions come from; None: from the documents' own words."""
    from resift.questions.endpoint import Address

    if arguments.endpoint is None:
        names = ("model", "key_variable", "concurrency", "max_requests", "timeout", "max_characters")
        useless = [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) is not None]
        if useless:
            arguments.usage_error(f"{', '.join(useless)}: only with --endpoint URL")
        return None
    if arguments.model is None:
        arguments.usage_error("--endpoint: also name the endpoint's model: --model NAME")
    key = None
    if arguments.key_variable is not None:
        key = os.environ.get(arguments.key_variable, "").strip()
        if not key:
            raise InputError(f"the environment variable {arguments.key_variable!r:.80} is not set; expected it to hold the key")
    return Address.parse(arguments.endpoint, arguments.model, key, arguments.timeout or 120.0)


def _loaded(arguments: argparse.Namespace, engine: Settings) -> AbstractContextManager[Reranker | None]:
    from resift.reranker import Reranker

    is_reranked = arguments.round_trip_by == RERANKER and arguments.round_trip
    return Reranker.load(settings=engine) if is_reranked else nullcontext()


def _write(found: Generated, arguments: argparse.Namespace) -> None:
    if not found.rows:
        reasons = ", ".join(f"{count} {reason}" for reason, count in found.left_out.most_common(3) if count)
        raise InputError(
            f"{arguments.data}: no query remains: {reasons or 'no documents'}; expected longer texts, or --round-trip 0"
        )
    from resift.questions.generate import encode_rows

    write_whole(arguments.out, encode_rows(found.rows))


def _record(found: Generated, arguments: argparse.Namespace, method: str) -> dict[str, Any]:
    return {
        "out": path_text(arguments.out),
        "method": method,
        "documents": found.documents,
        "queries": len(found.rows),
        "requests": found.requests,
        "remaining": found.remaining,
        "left_out": {reason: count for reason, count in found.left_out.items() if count},
    }


def _lines(found: Generated, arguments: argparse.Namespace, method: str) -> list[str]:
    from resift.questions.generate import EXTRACTIVE

    head = f"{path_text(arguments.out)}: {len(found.rows)} queries on {found.documents} documents"
    if method == EXTRACTIVE:
        head += ", keywords of their own sentences: no endpoint was named, and no question was invented"
    else:
        head += f", by {method} in {found.requests} requests"
    rows = [[reason, str(count)] for reason, count in found.left_out.most_common() if count]
    return [*paragraph(head), *(["", *aligned([["left out because", "number"], *rows])] if rows else [])]

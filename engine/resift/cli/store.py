"""`resift store info|check|prune|forget DIR`: what a store of `resift prepare` holds, and what is to leave it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from resift.cli import values
from resift.cli.options import CHECK, EXIT_CODES, add_engine, add_template, settings
from resift.cli.streams import paragraph, write_json, write_lines
from resift.documents import DocumentTemplate
from resift.files.names import path_text
from resift.pools.documents import DocumentSource
from resift.pools.preparation import find_digests, require_states
from resift.reranker import Reranker

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from resift.cli.options import Commands, Parser
    from resift.states.maintenance import Removed

EPILOG = f"""examples:
  resift store info states
  resift store check states
  resift store prune states
  resift store prune states --only corpus.jsonl
  resift store forget states withdrawn.jsonl

States of other models, versions and machines than this one lie beside each other in a store. `prune` and `forget` write to it: they
are refused while `resift prepare` does.

{EXIT_CODES}"""


def add(commands: Commands) -> None:
    """Adds the command and its own commands."""
    command = commands.add_parser(
        "store",
        help="inspect a store of prepared documents, or remove documents from it",
        description="Inspect a store that `resift prepare` filled, or remove states from it.",
        epilog=EPILOG,
    )
    actions = command.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add(actions, "info", "show what the store holds, by model", info)
    _add(actions, "check", "read everything and compare it with its checksums; exit code 3 if something is damaged", check)
    pruning = _add(actions, "prune", "remove what is damaged, and all states but those of one model on this machine", prune)
    pruning.add_argument("--only", type=values.file_name, metavar="DOCUMENTS", help="remove all but these documents, too")
    forgetting = _add(actions, "forget", "remove and overwrite the states of documents", forget)
    forgetting.add_argument("documents", metavar="DOCUMENTS", type=values.file_name, help="as for `resift prepare`")
    for parser in (pruning, forgetting):
        parser.add_argument("--model", type=values.file_name, metavar="MODEL", help="whose states (default: the default model)")
        add_template(parser)
        add_engine(parser, has_states=False)


def _add(actions: Commands, name: str, about: str, run: Callable[[argparse.Namespace], int]) -> Parser:
    command = actions.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.", epilog=EXIT_CODES)
    command.add_argument("store", metavar="DIR", type=values.path, help="the store")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    command.set_defaults(run=run)
    return command


def info(arguments: argparse.Namespace) -> int:
    """Prints what the store holds of each identity."""
    from resift.states.maintenance import contents

    found = contents(arguments.store)
    if arguments.json:
        records = [
            {
                "folder": path_text(each.folder),
                "label": each.header.label,
                "identity": each.header.identity,
                "documents": each.documents,
                "bytes": each.bytes,
                "bytes_per_token": each.header.size,
                "shards": each.header.shards,
                "faults": each.faults,
            }
            for each in found
        ]
        write_json({"store": path_text(arguments.store), "states": records})
        return 0
    for each in found:
        write_lines(paragraph(f"{each.folder.name}  {each.documents} documents, {each.bytes / 1e6:.1f} MB: {each.header.label}"))
        for fault in each.faults:
            write_lines(paragraph(fault, "  "))
    if not found:
        write_lines([f"{path_text(arguments.store)} holds no states"])
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Prints what is damaged, shard by shard, and the sums."""
    from resift.states import maintenance

    documents = damaged = 0
    faults: list[str] = []
    for shard in maintenance.check(arguments.store):
        documents, damaged = documents + shard.documents, damaged + shard.damaged
        if shard.fault is not None:
            faults.append(f"{path_text(shard.path)} cannot be read: {shard.fault}")
        elif shard.damaged:
            faults.append(f"{path_text(shard.path)} has {shard.damaged} damaged rows")
    if arguments.json:
        write_json({"store": path_text(arguments.store), "documents": documents, "damaged": damaged, "faults": faults})
    else:
        end = "; remove what is damaged with `resift store prune`" if faults else ""
        write_lines([*faults, f"{documents} documents are sound, {damaged} damaged{end}"])
    return CHECK if faults else 0


def prune(arguments: argparse.Namespace) -> int:
    """Removes what is of no use to the model."""
    from resift.states import maintenance

    with _load(arguments) as reranker:
        only = None if arguments.only is None else _digests(reranker, arguments.only)
        removed = maintenance.prune(arguments.store, require_states(reranker).identity, only)
    return _say(arguments, removed)


def forget(arguments: argparse.Namespace) -> int:
    """Removes documents."""
    from resift.states import maintenance

    with _load(arguments) as reranker:
        digests = _digests(reranker, arguments.documents)
    removed = maintenance.forget(arguments.store, digests)
    return _say(arguments, removed, read=len(digests))


def _load(arguments: argparse.Namespace) -> Reranker:
    return Reranker.load(arguments.model, settings=replace(settings(arguments), store="auto", document_cache=0))


def _digests(reranker: Reranker, path: str) -> set[bytes]:
    """The digests of a file's documents."""
    template = reranker.settings.document_template
    return find_digests(reranker, DocumentSource(path, None if template == "auto" else DocumentTemplate.parse(template)))


def _say(arguments: argparse.Namespace, removed: Removed, *, read: int | None = None) -> int:
    """Prints what was removed. `read`: number of distinct documents that were to be removed."""
    if arguments.json:
        record: dict[str, Any] = {"store": path_text(arguments.store), **removed._asdict()}
        write_json(record if read is None else {**record, "read": read})
        return 0
    parts = [
        f"{removed.documents} documents removed" if read is None else f"{removed.documents} states of {read} documents removed"
    ]
    if removed.damaged:
        parts.append(f"{removed.damaged} damaged rows or shards removed")
    if removed.identities:
        parts.append(f"the states of {removed.identities} other models, versions or machines removed")
    write_lines(paragraph(f"{path_text(arguments.store)}: {', '.join(parts)}; {removed.bytes / 1e6:.1f} MB less"))
    return 0

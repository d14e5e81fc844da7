"""`resift info [MODEL]`: shows what an artifact is and how this machine runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from resift.artifact.certificate import Certificate
from resift.artifact.folder import embedded
from resift.cli.options import EXIT_CODES, add_engine, add_model, settings
from resift.cli.streams import write_json, write_lines
from resift.files.names import path_text
from resift.machine import instruction_sets, usable_cores
from resift.reranker import Reranker
from resift.runtime import wheels
from resift.runtime.providers import versions

if TYPE_CHECKING:
    import argparse

    from resift.cli.options import Commands

EPILOG = f"""examples:
  resift info
  resift info ./my-artifact --all
  resift info ./my-artifact --json

{EXIT_CODES}"""


HERE = ("artifact", "runs", "max_length", "document_template", "scores", "machine", "wheels", "versions", "embedded_models")
"""What the command prints without --all."""
MORE = "`resift info --all` also prints the graphs, the certificate and the recipe"


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "info",
        help="show what an artifact is and how this machine runs it",
        description="Show how this machine runs an artifact and, with --all, what it is and how it agrees with its checkpoint.",
        epilog=EPILOG,
    )
    command.add_argument(
        "--all", action="store_true", help="also print the graphs, the certificate and how the artifact was made; --json has all"
    )
    add_model(command, "MODEL")
    add_engine(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Loads the artifact and prints the variant, provider and settings that run here, and what the artifact is."""
    with Reranker.load(arguments.model, settings=settings(arguments)) as reranker:
        manifest = reranker.artifact.manifest
        certificate = Certificate.read(reranker.artifact)
        record = {
            "artifact": path_text(reranker.artifact.folder),
            "runs": {
                "variant": reranker.variant.file,
                "precision": reranker.precision,
                "provider": reranker.provider,
                **({} if reranker.variant.packed is None else {"packed": reranker.is_packed}),
                "nodes": reranker.nodes,
                "threads": reranker.resolved.threads,
                "token_budget": reranker.resolved.token_budget,
                "plan": str(reranker.plan_for()),
                "plan_with_top_k": str(reranker.plan_for(top_k=1)),
            },
            "max_length": reranker.resolved.max_length,
            "document_template": str(reranker.resolved.document_template),
            "scores": reranker.resolved.scores,
            "machine": {"usable_cores": usable_cores(), "instruction_sets": sorted(instruction_sets())},
            "wheels": wheels.installed(),
            "versions": versions("resift", "onnxruntime", "tokenizers", "numpy"),
            "embedded_models": sorted(embedded()),
            "bytes": reranker.artifact.size(),
            "model": manifest.model,
            "pair": manifest.pair,
            "graphs": manifest.graphs,
            "forced": manifest.forced,
            "reference": certificate.reference,
            "agreement": certificate.agreement,
            "measured": certificate.places,
            "agreement_by_length": {
                file: {f"up to {each.up_to} tokens": each.summary() for each in classes}
                for file, classes in certificate.classes.items()
            },
            "agreement_by_script": {
                file: {script: each.summary() for script, each in certificate.scripts(file).items()}
                for file in certificate.agreement
            },
            "generated_pairs": {file: each.summary() for file, each in certificate.generated.items()},
            "search": certificate.search,
            "first_looks": certificate.first_looks,
            "first_look_by_length": {
                file: {f"up to {each.up_to} tokens": each.summary() for each in classes}
                for file, classes in certificate.look_classes.items()
            },
            "plan": manifest.plan,
            "recipe": manifest.recipe,
            "made_with": manifest.versions,
            "tested_onnxruntime": manifest.onnxruntime,
        }
    plain = msgspec.to_builtins(record)
    if arguments.json:
        write_json(plain)
        return 0
    shown = lines(plain if arguments.all else {name: plain[name] for name in HERE})
    model = [f"model: {manifest.model.id}", *([f"origin: {origin}"] if (origin := manifest.recipe.get("origin")) else [])]
    write_lines([*model, *shown, *([] if arguments.all else [MORE])])
    return 0


def lines(record: dict[str, object], indent: str = "") -> list[str]:
    """One `name: value` per line, nested by indentation; a list of records repeats its name."""
    found = []
    for name, value in record.items():
        if isinstance(value, dict) and value:
            found += [f"{indent}{name}:", *lines(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for item in value:
                found += [f"{indent}{name}:", *lines(item, indent + "  ")]
        elif isinstance(value, list | dict):
            found.append(f"{indent}{name}: {'; '.join(map(str, value)) or 'none'}")
        else:
            found.append(f"{indent}{name}: {_word(value)}")
    return found


def _word(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4f}"
        case _:
            return str(value)

"""`resift verify ARTIFACT`: recomputes the artifact's certificate on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resift.artifact.agreement import Agreement, Bounds, ClassAgreement, check_bounds, check_classes, check_reference
from resift.artifact.certificate import MIN_RECALL, Certificate, FirstLookRecall, check_recall
from resift.cli.meter import StageMeter, wait_for
from resift.cli.options import EXIT_CODES, add_engine, add_model, settings
from resift.cli.streams import paragraph, write_json, write_lines
from resift.errors import ParityError
from resift.files.names import path_text
from resift.plans import Plan, Stage
from resift.reranker import Reranker

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from resift.artifact.agreement import Pool
    from resift.cli.options import Commands

EPILOG = f"""examples:
  resift verify
  resift verify ./my-artifact --precision float32

{EXIT_CODES}"""


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "verify",
        help="recompute an artifact's certificate on this machine",
        description="Score the artifact's gate pools on this machine and compare them with the checkpoint's float32 scores. "
        "Exit code 3 if a bound does not hold, or is looser than that of `resift export`.",
        epilog=EPILOG,
    )
    command.add_argument(
        "--accept-bounds", action="store_true", help="accept the artifact's own bounds even if they are looser than the defaults"
    )
    add_model(command, "ARTIFACT")
    add_engine(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Scores, compares and prints; raises ParityError if a bound does not hold or is looser than the default."""
    with Reranker.load(arguments.model, settings=settings(arguments)) as reranker, StageMeter() as meter:
        artifact, file = reranker.artifact, reranker.variant.file
        certificate = Certificate.read(artifact)
        check_reference([np.array(pool.checkpoint) for pool in certificate.pools])
        logits = _logits(reranker, certificate.all_pools, "full", meter)
        first_looks = {
            reranker.variant_of(graph.name).file: certificate.measure_first_look(
                _logits(reranker, certificate.pools, Plan([Stage(graph.name)]), meter)
            )
            for graph in artifact.manifest.graphs
            if graph.role == "first-look"
        }
    agreement = certificate.measure(logits[: len(certificate.pools)])
    max_length = artifact.manifest.pair.max_length
    classes = certificate.measure_classes(logits, max_length) if certificate.has_classes else []
    at_export = certificate.agreement[file]
    recorded = [np.array(pool.variants[file]) for pool in certificate.all_pools]
    largest_change = max(float(np.abs(here - before).max()) for here, before in zip(logits, recorded, strict=True))
    if arguments.json:
        record = {
            "artifact": path_text(artifact.folder),
            "variant": file,
            "precision": reranker.precision,
            "reference": certificate.reference,
            "provider": reranker.provider,
            "bounds": certificate.bounds,
            "agreement": agreement,
            "at_export": at_export,
            "agreement_by_length": classes,
            "largest_change_since_export": largest_change,
            "search": certificate.search.get(file),
            "first_looks": {name: {"kept": here, "at_export": certificate.first_looks[name]} for name, here in first_looks.items()},
        }
        write_json(record)
    else:
        table = _table(certificate.bounds, agreement, at_export)
        changed = f"largest change of a logit since export: {largest_change:.2g}"
        search = [*paragraph(certificate.search[file].summary())] if file in certificate.search else []
        look_tables = [
            line for name, here in first_looks.items() for line in _first_look_table(name, here, certificate.first_looks[name])
        ]
        against = f", against {certificate.reference}" if certificate.reference else ""
        by_length = _class_lines(classes)
        write_lines([f"{file} on {len(certificate.pools)} pools{against}", *table, *by_length, changed, *search, *look_tables])
    for name, here in first_looks.items():
        check_recall(here, f"{artifact.folder} ({name})")
    check_bounds(agreement, certificate.bounds, f"{artifact.folder} ({file})")
    check_classes(classes, certificate.bounds, f"{artifact.folder} ({file})")
    looser = certificate.bounds.looser(Bounds())
    if looser and not arguments.accept_bounds:
        raise ParityError(
            f"{artifact.folder} is within its own bounds, but they are looser than those of `resift export`: {'; '.join(looser)}; "
            "to accept them, use --accept-bounds"
        )
    return 0


def _logits(reranker: Reranker, pools: Sequence[Pool], plan: Plan | str, meter: StageMeter) -> list[NDArray[np.float32]]:
    """The logits of `pools` on this machine.

    All pools are submitted at once, so that pairs of one length share a batch, whichever pools they are from.
    """
    answers = [reranker.submit(pool.query, pool.documents, plan=plan) for pool in pools]
    wait_for(answers, lambda: reranker.queued.tokens, meter, "verify")
    return [answer.result().logits for answer in answers]


def _first_look_table(file: str, here: list[FirstLookRecall], at_export: list[FirstLookRecall]) -> list[str]:
    lines = [
        f"{file}, a first look: share of the best documents among its first",
        f"{'':20} {'bound':>8} {'export':>8} {'here':>8}",
    ]
    for now, before in zip(here, at_export, strict=True):
        bound = f">= {MIN_RECALL}" if now is here[-1] else ""
        lines.append(f"{now.look:<20.0%} {bound:>8} {before.kept:>8.4f} {now.kept:>8.4f}")
    return lines


def _class_lines(classes: list[ClassAgreement]) -> list[str]:
    if not classes:
        return ["by length of the pair: not recorded; export the checkpoint again"]
    return ["by length of the pair, here:", *(f"  up to {each.up_to} tokens: {each.summary()}" for each in classes)]


def _table(bounds: Bounds, here: Agreement, at_export: Agreement) -> list[str]:
    rows = [
        ("mean top-10 overlap", f">= {bounds.overlap}", at_export.overlap, here.overlap),
        ("mean Kendall tau", f">= {bounds.tau}", at_export.tau, here.tau),
        ("worst pool's tau", f">= {bounds.worst_tau}", at_export.worst_tau, here.worst_tau),
        ("p99 error / range", f"<= {bounds.error}", at_export.error, here.error),
    ]
    if here.ndcg_drop is not None and at_export.ndcg_drop is not None:
        rows.append(("drop of nDCG@10", f"<= {bounds.ndcg_drop}", at_export.ndcg_drop, here.ndcg_drop))
    lines = [f"{'':20} {'bound':>8} {'export':>8} {'here':>8}"]
    lines += [f"{name:20} {bound:>8} {first:>8.4f} {second:>8.4f}" for name, bound, first, second in rows]
    return lines

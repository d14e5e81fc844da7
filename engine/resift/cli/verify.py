"""`resift verify ARTIFACT`: recomputes the certificate on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resift.artifact.agreement import Agreement, Bounds, check_reference, refuse
from resift.artifact.certificate import MIN_RECALL, Certificate, FirstLookRecall, refuse_first_look
from resift.cli.options import EXIT_CODES, add_engine, add_model, settings
from resift.cli.streams import write_json, write_lines
from resift.errors import ParityError
from resift.files.names import path_text
from resift.plans import Plan, Stage
from resift.reranker import Reranker

if TYPE_CHECKING:
    import argparse

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


def run(asked: argparse.Namespace) -> int:
    """Scores, compares and prints; raises ParityError if a bound does not hold or is looser than the default."""
    with Reranker.load(asked.model, settings=settings(asked)) as reranker:
        artifact, file = reranker.artifact, reranker.variant.file
        certificate = Certificate.read(artifact)
        check_reference([np.array(pool.checkpoint) for pool in certificate.pools])
        # All at once: pairs of one length share a batch, whichever pools they are from.
        answers = [reranker.submit(pool.query, pool.documents, plan="full") for pool in certificate.pools]
        found = [answer.result().logits for answer in answers]
        looks = _looks(reranker, certificate)
    agreement = certificate.measure(found)
    at_export = certificate.agreement[file]
    recorded = [np.array(pool.variants[file]) for pool in certificate.pools]
    moved = max(float(np.abs(now - then).max()) for now, then in zip(found, recorded, strict=True))
    if asked.json:
        record = {
            "artifact": path_text(artifact.folder),
            "variant": file,
            "precision": reranker.precision,
            "reference": certificate.reference,
            "provider": reranker.provider,
            "bounds": certificate.bounds,
            "agreement": agreement,
            "at_export": at_export,
            "largest_change_since_export": moved,
            "search": certificate.search.get(file),
            "first_looks": {name: {"kept": here, "at_export": certificate.first_looks[name]} for name, here in looks.items()},
        }
        write_json(record)
    else:
        table = _table(certificate.bounds, agreement, at_export)
        changed = f"largest change of a logit since export: {moved:.2g}"
        searched = [certificate.search[file].summary()] if file in certificate.search else []
        looked = [line for name, here in looks.items() for line in _look_table(name, here, certificate.first_looks[name])]
        against = f", against {certificate.reference}" if certificate.reference else ""
        write_lines([f"{file} on {len(certificate.pools)} pools{against}", *table, changed, *searched, *looked])
    for name, here in looks.items():
        refuse_first_look(here, f"{artifact.folder} ({name})")
    refuse(agreement, certificate.bounds, f"{artifact.folder} ({file})")
    looser = certificate.bounds.looser(Bounds())
    if looser and not asked.accept_bounds:
        raise ParityError(
            f"{artifact.folder} is within its own bounds, but they are looser than those of `resift export`: {'; '.join(looser)}; "
            "to accept them, use --accept-bounds"
        )
    return 0


def _looks(reranker: Reranker, certificate: Certificate) -> dict[str, list[FirstLookRecall]]:
    """What the first looks keep on this machine, by the file of the variant that runs here."""
    found = {}
    for graph in reranker.artifact.manifest.graphs:
        if graph.role == "first-look":
            plan = Plan([Stage(graph.name)])
            answers = [reranker.submit(pool.query, pool.documents, plan=plan) for pool in certificate.pools]
            found[reranker.variant_of(graph.name).file] = certificate.measure_first_look(
                [answer.result().logits for answer in answers]
            )
    return found


def _look_table(file: str, now: list[FirstLookRecall], then: list[FirstLookRecall]) -> list[str]:
    lines = [
        f"{file}, a first look: share of the best documents among its first",
        f"{'':20} {'bound':>8} {'export':>8} {'here':>8}",
    ]
    for here, before in zip(now, then, strict=True):
        bound = f">= {MIN_RECALL}" if here is now[-1] else ""
        lines.append(f"{here.look:<20.0%} {bound:>8} {before.kept:>8.4f} {here.kept:>8.4f}")
    return lines


def _table(bounds: Bounds, now: Agreement, then: Agreement) -> list[str]:
    rows = [
        ("mean top-10 overlap", f">= {bounds.overlap}", then.overlap, now.overlap),
        ("mean Kendall tau", f">= {bounds.tau}", then.tau, now.tau),
        ("worst pool's tau", f">= {bounds.worst_tau}", then.worst_tau, now.worst_tau),
        ("p99 error / range", f"<= {bounds.error}", then.error, now.error),
    ]
    if now.ndcg_drop is not None and then.ndcg_drop is not None:
        rows.append(("drop of nDCG@10", f"<= {bounds.ndcg_drop}", then.ndcg_drop, now.ndcg_drop))
    lines = [f"{'':20} {'bound':>8} {'export':>8} {'here':>8}"]
    lines += [f"{name:20} {bound:>8} {first:>8.4f} {second:>8.4f}" for name, bound, first, second in rows]
    return lines

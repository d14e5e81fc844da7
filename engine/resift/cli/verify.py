"""`resift verify ARTIFACT`: recomputes the certificate on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resift.artifact import path_text
from resift.cli.options import add_engine, add_model, settings, write_json, write_text
from resift.errors import ParityError
from resift.parity import Agreement, Bounds, Certificate, check_reference, logits_of, refuse
from resift.reranker import Reranker

if TYPE_CHECKING:
    import argparse

    from resift.cli.options import Commands


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "verify",
        help="recompute an artifact's certificate on this machine",
        description="Score the artifact's gate pools on this machine and compare with its checkpoint's own float32 scores. "
        "Exit code 3 if a bound does not hold, or is looser than those that `resift export` sets. "
        "Example: resift verify ./my-artifact",
    )
    command.add_argument(
        "--accept-bounds", action="store_true", help="hold the artifact to its own bounds even where they are looser than usual"
    )
    add_model(command, "ARTIFACT")
    add_engine(command)
    command.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Scores, compares, prints, and raises ParityError if a bound does not hold or is looser than the default."""
    with Reranker.load(asked.model, provider=asked.provider, settings=settings(asked)) as reranker:
        artifact, file = reranker.artifact, reranker.variant.file
        certificate = Certificate.read(artifact)
        check_reference([np.array(pool.checkpoint) for pool in certificate.pools])
        found = [logits_of(reranker, pool.query, pool.documents) for pool in certificate.pools]
    agreement = certificate.measure(found)
    at_export = certificate.agreement[file]
    recorded = [np.array(pool.variants[file]) for pool in certificate.pools]
    moved = max(float(np.abs(now - then).max()) for now, then in zip(found, recorded, strict=True))
    if asked.json:
        record = {
            "artifact": path_text(artifact.folder),
            "variant": file,
            "precision": reranker.precision,
            "provider": reranker.provider,
            "bounds": certificate.bounds,
            "agreement": agreement,
            "at_export": at_export,
            "largest_change_since_export": moved,
        }
        write_json(record)
    else:
        write_text(f"{file} on {len(certificate.pools)} pools\n{_table(certificate.bounds, agreement, at_export)}")
        write_text(f"largest change of a logit since export: {moved:.2g}\n")
    refuse(agreement, certificate.bounds, f"{artifact.folder} ({file})")
    if (looser := certificate.bounds.looser(Bounds())) and not asked.accept_bounds:
        raise ParityError(
            f"{artifact.folder} holds its own bounds, which are looser than those of `resift export`: {'; '.join(looser)}; "
            "if its figures are good enough for you, say --accept-bounds"
        )
    return 0


def _table(bounds: Bounds, now: Agreement, then: Agreement) -> str:
    rows = [
        ("mean top-10 overlap", f">= {bounds.overlap}", then.overlap, now.overlap),
        ("mean Kendall tau", f">= {bounds.tau}", then.tau, now.tau),
        ("worst pool's tau", f">= {bounds.worst_tau}", then.worst_tau, now.worst_tau),
        ("p99 error / range", f"<= {bounds.error}", then.error, now.error),
    ]
    lines = [f"{'':20} {'bound':>8} {'export':>8} {'here':>8}"]
    lines += [f"{name:20} {bound:>8} {first:>8.4f} {second:>8.4f}" for name, bound, first, second in rows]
    return "\n".join(lines) + "\n"

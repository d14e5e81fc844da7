"""`resift verify ARTIFACT`: recomputes the artifact's certificate on this machine."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from resift.artifact.agreement import Agreement, Bounds, Pool, check_bounds, check_reference
from resift.artifact.certificate import MIN_RECALL, Certificate, FirstLookRecall, check_recall
from resift.artifact.coverage import (
    LEAST_PAIRS,
    ClassAgreement,
    PartAgreement,
    check_classes,
    check_generated,
    largest_difference,
    measure_generated,
)
from resift.cli import values
from resift.cli.meter import StageMeter, wait_for
from resift.cli.options import EXIT_CODES, add_engine, add_model, settings
from resift.cli.streams import paragraph, write_json, write_lines
from resift.encoding.artifact_tokenizer import open_tokenizer
from resift.encoding.generated_pairs import generated_pools, words_of
from resift.encoding.long_pairs import with_long_pairs
from resift.errors import ExtraError, InputError, ParityError
from resift.files.names import path_text
from resift.plans import Plan, Stage
from resift.pools.source import read_pools
from resift.reranker import Reranker

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from resift.artifact.folder import Artifact
    from resift.cli.options import Commands

EPILOG = f"""examples:
  resift verify
  resift verify ./my-artifact --precision float32
  resift verify ./my-artifact --fuzz 2000 --checkpoint ./my-cross-encoder

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
        "--gate", metavar="FILE", type=values.path, help="the gate's pools, for an artifact that was exported with --no-texts"
    )
    command.add_argument(
        "--fuzz",
        metavar="N",
        type=values.whole(LEAST_PAIRS),
        help=f"also compare int8 with float32 on N generated pairs, {LEAST_PAIRS} or more; needs a float32 graph, or --checkpoint",
    )
    command.add_argument(
        "--checkpoint",
        metavar="CHECKPOINT",
        type=values.file_name,
        help="a folder or a hub id: what --fuzz compares with, in place of the artifact's float32 graph; needs the extra export",
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
        certificate = _with_texts(Certificate.read(artifact), artifact, arguments.gate)
        check_reference([np.array(pool.checkpoint) for pool in certificate.pools])
        logits = _logits(reranker, certificate.all_pools, "full", meter)
        look_logits = {
            reranker.variant_of(graph.name).file: _logits(reranker, certificate.all_pools, Plan([Stage(graph.name)]), meter)
            for graph in artifact.manifest.graphs
            if graph.role == "first-look"
        }
        generated, worst = None, ""
        if arguments.fuzz is not None:
            pools = generated_pools(
                words_of(certificate.all_pools), open_tokenizer(artifact), reranker.resolved.max_length, arguments.fuzz
            )
            exact, found = _exact(reranker, pools, arguments.checkpoint, meter), _logits(reranker, pools, "full", meter)
            generated = measure_generated(exact, found, certificate.span, certificate.bounds)
            worst = largest_difference(pools, exact, found)
    agreement = certificate.measure(logits[: len(certificate.pools)])
    max_length = artifact.manifest.pair.max_length
    classes = certificate.measure_classes(logits, max_length) if certificate.has_classes else []
    count = len(certificate.pools)
    first_looks = {name: certificate.measure_first_look(found[:count]) for name, found in look_logits.items()}
    with_classes = {name: found for name, found in look_logits.items() if name in certificate.look_classes}
    look_classes = {name: certificate.measure_look(found, max_length) for name, found in with_classes.items()}
    scripts = certificate.measure_scripts(logits)
    at_export = certificate.agreement[file]
    recorded = [np.array(pool.variants[file], np.float32) for pool in certificate.all_pools]
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
            "agreement_by_script": scripts,
            "generated": generated,
            "largest_difference": worst or None,
            "largest_change_since_export": largest_change,
            "measured": certificate.places.get(file),
            "search": certificate.search.get(file),
            "first_looks": {name: {"kept": here, "at_export": certificate.first_looks[name]} for name, here in first_looks.items()},
            "first_look_by_length": look_classes,
        }
        write_json(record)
    else:
        table = _table(certificate.bounds, agreement, at_export)
        place = certificate.places.get(file)
        measured = f" (measured {place})" if place else ""
        changed = f"largest change of a logit since export{measured}: {largest_change:.2g}"
        search = [*paragraph(certificate.search[file].summary())] if file in certificate.search else []
        look_tables = [
            line for name, here in first_looks.items() for line in _first_look_table(name, here, certificate.first_looks[name])
        ]
        for name, by_length in look_classes.items():
            look_tables += [f"{name}, against its own checkpoint", *_class_lines(by_length)]
        against = f", against {certificate.reference}" if certificate.reference else ""
        by_part = [*_class_lines(classes), *_script_lines(scripts)]
        if generated is not None:
            by_part += [f"on generated pairs, here: {generated.summary()}", *paragraph(f"most on {worst}")]
        write_lines([f"{file} on {len(certificate.pools)} pools{against}", *table, *by_part, changed, *search, *look_tables])
    for name, recalls in first_looks.items():
        check_recall(recalls, f"{artifact.folder} ({name})")
    check_bounds(agreement, certificate.bounds, f"{artifact.folder} ({file})")
    check_classes(classes, certificate.bounds, f"{artifact.folder} ({file})")
    if generated is not None:
        check_generated(generated, certificate.bounds, f"{artifact.folder} ({file})")
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


def _script_lines(scripts: dict[str, PartAgreement]) -> list[str]:
    return ["by script of the pair, here:", *(f"  {name}: {each.summary()}" for name, each in scripts.items())]


def _with_texts(certificate: Certificate, artifact: Artifact, gate: Path | None) -> Certificate:
    """The certificate with the texts of its gate, which are those of the file `gate` if it was exported without them.

    Raises InputError for a file that is not the gate's, if one is needed and is not given, and if one is given but not needed.
    """
    if all(pool.has_texts for pool in certificate.pools):
        if gate is not None:
            raise InputError(f"{artifact.folder} holds the texts of its gate; leave --gate out")
        return certificate
    if gate is None:
        raise InputError(f"{artifact.folder} was exported with --no-texts; expected --gate FILE, the pools of its gate")
    pools = [Pool(qid="", query=pool.query, documents=pool.documents) for pool in read_pools(gate)]
    with gate.open("rb") as file:
        digest, expected = hashlib.file_digest(file, "sha256").hexdigest(), artifact.manifest.recipe.get("gate_sha256")
    if digest != expected:
        raise InputError(f"{gate} has SHA-256 {digest[:12]}…, but the gate's file had {expected!s:.12}…; expected that file")
    pools = with_long_pairs(pools, open_tokenizer(artifact), artifact.manifest.pair.max_length)
    texts = [
        msgspec.structs.replace(stored, query=pool.query, documents=pool.documents, scripts=None)
        for stored, pool in zip(certificate.pools, pools, strict=True)
    ]
    return msgspec.structs.replace(certificate, pools=texts)


def _exact(reranker: Reranker, pools: Sequence[Pool], checkpoint: str | None, meter: StageMeter) -> list[NDArray[np.float32]]:
    """The logits of `pools` by a checkpoint, or by the artifact's float32 graph if `checkpoint` is None.

    A hub id that is the artifact's own is loaded at the artifact's revision, not at the latest.

    Raises InputError if there is no such graph, and ExtraError for a checkpoint without the toolchain.
    """
    artifact = reranker.artifact
    if checkpoint is None:
        if all(variant.precision != "float32" for variant in artifact.manifest.full.variants):
            raise InputError(f"{artifact.folder} has no float32 graph for --fuzz to compare with; expected --checkpoint with it")
        with Reranker(artifact, settings=replace(reranker.settings, precision="float32")) as exact:
            return _logits(exact, pools, "full", meter)
    try:
        from resift_export.checkpoint.load import load
    except ImportError as error:
        raise ExtraError(f"--checkpoint needs packages that are not installed ({error}): pip install 'resift[export]'") from error
    options = {name: artifact.manifest.recipe.get(name) for name in ("relevant_label", "prompt_name", "activation")}
    model = artifact.manifest.model
    revision = model.revision if checkpoint == model.id and not os.path.isdir(checkpoint) else None  # noqa: PTH112 - as load does
    loaded = load(checkpoint, revision=revision, **options)  # type: ignore[arg-type]
    return loaded.references([(pool.query, pool.documents) for pool in pools], meter)


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

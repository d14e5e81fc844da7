"""`resift upgrade ARTIFACT OUT`: brings an artifact of an earlier format up to date, without its checkpoint."""

from __future__ import annotations

import shutil
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from resift.artifact.certificate import Certificate, encode_certificate
from resift.artifact.folder import Artifact
from resift.artifact.manifest import CARD, CERTIFICATE, FORMAT, MANIFEST, FileEntry
from resift.artifact.stable_pairs import self_tests
from resift.cli import values
from resift.cli.options import EXIT_CODES
from resift.cli.streams import write_lines
from resift.encoding.artifact_tokenizer import open_tokenizer
from resift.errors import InputError, OutputError
from resift.files.names import path_text
from resift.files.placing import place

if TYPE_CHECKING:
    import argparse

    from resift.cli.options import Commands

EPILOG = f"""examples:
  resift upgrade ./my-artifact ./my-artifact-3

{EXIT_CODES}"""


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "upgrade",
        help="bring an artifact of an earlier format up to date",
        description=f"Write an artifact of format {FORMAT} from one of an earlier format. The graphs are copied, and nothing is "
        "measured: the agreement by length and the self-test come from the logits that the certificate holds.",
        epilog=EPILOG,
    )
    command.add_argument("artifact", metavar="ARTIFACT", help="a folder or a hub id")
    command.add_argument("out", metavar="OUT", type=values.path, help="folder to write; it must not exist yet")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Writes the artifact, and prints its folder and size."""
    out = upgrade(Artifact.find(arguments.artifact), arguments.out)
    write_lines([f"{path_text(out)}  {Artifact.open(out).size() / 1e6:.1f} MB"])
    return 0


def upgrade(artifact: Artifact, out: Path) -> Path:
    """Writes the artifact in today's format to the new folder `out`, which it returns.

    Raises InputError if the artifact has today's format already, ArtifactError if it is damaged, and OutputError if `out` exists or
    cannot be written.
    """
    manifest = artifact.manifest
    if manifest.format >= FORMAT:
        raise InputError(
            f"{path_text(artifact.folder)} already has format {manifest.format}; expected an artifact of an earlier format"
        )
    certificate = _with_lengths(Certificate.read(artifact), artifact)
    content = encode_certificate(certificate)
    entry = FileEntry(size=len(content), sha256=sha256(content).hexdigest())
    changed = msgspec.structs.replace(
        manifest,
        format=FORMAT,
        files={**manifest.files, CERTIFICATE: entry},
        self_tests=self_tests(certificate, {}),
        recipe={**manifest.recipe, "upgraded_from": artifact.fingerprint()},
    )
    try:
        if out.exists():
            raise OutputError(f"{path_text(out)} exists; expected the name of a folder that does not")
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.upgrade-", dir=out.absolute().parent) as staging:
            folder = Path(staging) / "artifact"
            folder.mkdir()
            for name in manifest.files.keys() - {CERTIFICATE}:
                if name != CARD or (artifact.folder / name).is_file():
                    shutil.copyfile(artifact.folder / name, folder / name)
            (folder / CERTIFICATE).write_bytes(content)
            (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(changed), indent=1))
            _check(Artifact.open(folder))
            place(folder, out)
    except OSError as error:
        raise OutputError(f"{path_text(out)} cannot be written: {error.strerror or error}") from error
    return out


def _with_lengths(certificate: Certificate, artifact: Artifact) -> Certificate:
    """The certificate with the number of tokens of each pair, and the agreement by length that follows from its logits."""
    tokenizer = open_tokenizer(artifact)
    pools = [
        msgspec.structs.replace(pool, tokens=tokenizer.encode(pool.query, pool.documents).lengths.tolist())
        for pool in certificate.pools
    ]
    found = msgspec.structs.replace(certificate, pools=pools)
    classes = {
        file: found.measure_classes([np.array(pool.variants[file]) for pool in pools], artifact.manifest.pair.max_length)
        for file in found.agreement
    }
    return msgspec.structs.replace(found, classes=classes)


def _check(artifact: Artifact) -> None:
    """Raises ArtifactError if a copied file is not what its manifest says."""
    Certificate.read(artifact)
    for graph in artifact.manifest.graphs:
        for variant in graph.variants:
            artifact.read_graph(variant, can_map=True)
    for name in artifact.manifest.files.keys() - {CARD}:
        if not name.endswith((".onnx", ".data")):
            artifact.read(name)

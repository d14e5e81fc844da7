"""Artifact: a folder that the runtime loads. Opening it checks it; nothing in it is executed or read outside it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from resift import hub
from resift.errors import ArtifactError
from resift.manifest import CARD, MANIFEST, Manifest, Variant, decode_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping

MANIFEST_LIMIT = 1 << 20
"""Bytes; a manifest is some 3 kB."""
EMBEDDED = "resift_models"
DEFAULT = "ms-marco-minilm-l12"


@dataclass(frozen=True)
class Artifact:
    """An opened folder whose every file has the size that its manifest states; hashes are checked as files are read.

    The card alone may be edited or left out: it is for people, who add to it after an export, and nothing here reads it.
    """

    folder: Path
    manifest: Manifest
    links_into: Path | None = None
    """a folder that links may lead into beside its own: a hub cache keeps one copy of a file for all revisions"""

    @classmethod
    def find(cls, source: str | os.PathLike[str] | None) -> Artifact:
        """Opens what `source` means: the default model (None), an embedded model's name, a folder, or a hub id.

        Raises ArtifactError if there is none or it is damaged.
        """
        name = DEFAULT if source is None else os.fspath(source)
        if name in embedded():
            return cls.open(embedded()[name])
        if os.path.isdir(name):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
            return cls.open(Path(name))
        if hub.HUB_ID.match(name):
            folder, cache = hub.download(name)
            return cls.open(folder, links_into=cache)
        raise ArtifactError(
            f"no artifact {name!r:.200}: expected a folder, a hub id org/name, or the name of an embedded model "
            f"({', '.join(sorted(embedded())) or 'none is installed'})"
        )

    @classmethod
    def open(cls, folder: Path, *, links_into: Path | None = None) -> Artifact:
        """Opens and checks a folder, whose files may be links into itself and `links_into` only.

        Raises ArtifactError that says what is wrong with it.
        """
        if not folder.is_dir():
            raise ArtifactError(f"no artifact at {folder}: expected a folder with a {MANIFEST}, as `resift export` writes it")
        _check_link(folder / MANIFEST, folder, links_into)
        artifact = cls(folder, decode_manifest(_read_manifest(folder)), links_into)
        artifact._check_files()
        return artifact

    def read(self, name: str) -> bytes:
        """The content of one of its files. Raises ArtifactError unless its SHA-256 is the manifest's."""
        entry = self.manifest.files[name]
        content = _read(self.folder / name, entry.size)
        if (found := hashlib.sha256(content).hexdigest()) != entry.sha256:
            raise ArtifactError(
                f"{self.folder / name} has SHA-256 {found[:12]}…, its manifest says {entry.sha256[:12]}…: "
                "the file was changed or damaged; copy or export the artifact again"
            )
        return content

    def read_graph(self, variant: Variant) -> bytes:
        """The variant's graph, which must hold all its weights itself."""
        graph = self.read(variant.file)
        # The key under which ONNX names another file to read tensors from (TensorProto.external_data).
        if b"location" in graph:
            raise ArtifactError(
                f"{self.folder / variant.file} reads weights from another file; expected one that holds them itself"
            )
        return graph

    def fingerprint(self) -> str:
        """SHA-256 of the manifest, which holds those of all files: equal for equal artifacts wherever they lie."""
        return hashlib.sha256(_read_manifest(self.folder)).hexdigest()

    def size(self) -> int:
        """Bytes of all its files."""
        return sum(entry.size for entry in self.manifest.files.values()) + (self.folder / MANIFEST).stat().st_size

    def _check_files(self) -> None:
        for name, entry in self.manifest.files.items():
            path = self.folder / name
            _check_link(path, self.folder, self.links_into)
            if name == CARD:
                continue
            if not path.is_file():
                raise ArtifactError(f"{path} is missing: its manifest lists it; copy or export the artifact again")
            if (size := path.stat().st_size) != entry.size:
                raise ArtifactError(
                    f"{path} has {size} bytes, its manifest says {entry.size}: "
                    "the copy is incomplete or another version's; copy or export the artifact again"
                )
        present = {entry.name for entry in os.scandir(self.folder) if not entry.name.startswith(".")}
        if extra := present - self.manifest.files.keys() - {MANIFEST}:
            raise ArtifactError(f"{self.folder} holds {', '.join(sorted(extra))}, of which its manifest knows nothing; remove it")


def _check_link(path: Path, *roots: Path | None) -> None:
    """Raises ArtifactError if `path` is a link that leads out of all `roots`."""
    if not path.is_symlink():
        return
    # Unlike Path.resolve, which raises for a loop of links, realpath stops in it: the file is then reported as missing.
    target = Path(os.path.realpath(path))
    if not any(root and target.is_relative_to(os.path.realpath(root)) for root in roots):
        raise ArtifactError(f"{path} leads outside the artifact's folder, to {target}; copy the file itself there")


def path_text(path: str | os.PathLike[str]) -> str:
    """A path as text that JSON can hold: what of it is not UTF-8 becomes U+FFFD."""
    return os.fsencode(path).decode(errors="replace")


def embedded() -> Mapping[str, Path]:
    """Folders of the models that are installed beside the engine, by name."""
    root = Path(str(files(EMBEDDED)))
    return {folder.name: folder for folder in root.iterdir() if (folder / MANIFEST).is_file()}


def _read_manifest(folder: Path) -> bytes:
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"no {MANIFEST} in {folder}: expected an artifact; turn a checkpoint into one with `resift export`")
    if path.stat().st_size > MANIFEST_LIMIT:
        raise ArtifactError(f"{path} has {path.stat().st_size} bytes; expected at most {MANIFEST_LIMIT}: it is no manifest")
    return _read(path, MANIFEST_LIMIT)


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error

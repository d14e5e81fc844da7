"""Artifact: the folder that the runtime loads. Opening it checks it; nothing in it is executed, and nothing outside it is read."""

from __future__ import annotations

import hashlib
import mmap
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from resift.artifact import hub
from resift.artifact.external_weights import externalize_weights
from resift.artifact.graph_check import WeightsFile, check_graph
from resift.artifact.graph_digest import digest_graph
from resift.artifact.graph_facts import check_statements
from resift.artifact.graph_on_disk import GraphOnDisk
from resift.artifact.manifest import CARD, MANIFEST, WEIGHTS_SUFFIX, Manifest, decode_manifest
from resift.artifact.resolved_plans import ResolvedPlan, resolve_plan
from resift.errors import ArtifactError, InputError
from resift.files import git_lfs
from resift.plans import Plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from resift.artifact.variant import Variant

MANIFEST_LIMIT = 1 << 20
"""Bytes; a manifest has about 3 kB."""
EMBEDDED_PACKAGE = "resift_models"
DEFAULT = "ms-marco-minilm-l12"
ORGANIZATION = "cross-encoder"
"""The organization of a checkpoint's hub id that names none, as in sentence-transformers."""
RENAMED = {"cross-encoder/ms-marco-minilm-l-12-v2": "cross-encoder/ms-marco-minilm-l12-v2"}
"""Former hub ids of the embedded models' checkpoints, which the hub redirects, and the present ones, in lower case."""
CONFIG = "config.json"
"""The file by which a checkpoint is known."""

MAPPED_BYTES = 1 << 26
"""Weights are mapped from a graph's file of this many bytes or more; a smaller file is read whole, and may change afterwards."""


@dataclass(frozen=True)
class Artifact:
    """An opened folder in which every file has the size its manifest states; hashes are checked as files are read.

    Only the card may be edited or missing: it is written for people, and nothing here reads it.
    """

    folder: Path
    manifest: Manifest
    links_into: Path | None = None
    """another folder that links may lead into: a hub cache keeps one copy of a file for all revisions"""

    @classmethod
    def find(cls, source: str | os.PathLike[str] | None) -> Artifact:
        """Opens `source`: the default model (None), an embedded model's name, a folder, or a hub id.

        The hub id of the checkpoint that an embedded model was made from means the embedded model; see `embedded_of`. Raises
        ArtifactError if there is no such artifact or it is damaged.
        """
        name = DEFAULT if source is None else os.fspath(source)
        if name in embedded():
            return cls.open(embedded()[name])
        if os.path.isdir(name):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
            return cls.open(Path(name))
        match = hub.HUB_ID.match(name)
        repository, revision = (match["id"], match["revision"]) if match else (name, None)
        if folder := embedded_of(repository, revision):
            return cls.open(folder)
        if match:
            return cls.download(repository, revision)
        raise ArtifactError(
            f"no artifact {name!r:.200}: expected a folder, a hub id org/name, or the name of an embedded model "
            f"({', '.join(sorted(embedded())) or 'none is installed'})"
        )

    @classmethod
    def download(cls, repository: str, revision: str | None) -> Artifact:
        """Downloads the files of a hub's repository that its manifest lists, once the manifest is there, and opens them.

        Raises ArtifactError like `hub.snapshot` and `open`, and if the repository is no artifact.
        """
        found = hub.snapshot(repository, revision, files=(MANIFEST, CONFIG))
        if not (found / MANIFEST).is_file():
            if not (found / CONFIG).is_file():
                raise ArtifactError(f"{repository} on the hub has neither {MANIFEST} nor {CONFIG}; expected an artifact")
            options = "" if revision is None else f" --revision {revision}"
            raise ArtifactError(
                f"{repository} on the hub is a checkpoint, not an artifact (it has {CONFIG}, but no {MANIFEST}); make an artifact "
                f"of it with `resift export {repository} OUT{options}`, and load OUT"
            )
        files = decode_manifest(_read_manifest(found)).files
        folder = hub.snapshot(repository, found.name, files=(MANIFEST, *files))
        return cls.open(folder, links_into=folder.parents[1])

    @classmethod
    def open(cls, folder: Path, *, links_into: Path | None = None) -> Artifact:
        """Opens and checks a folder. Its files may be links, but only into itself or `links_into`.

        Raises ArtifactError that says what is wrong.
        """
        if not folder.is_dir():
            raise ArtifactError(f"no artifact at {folder}: expected a folder with a {MANIFEST}, as `resift export` writes it")
        _check_link(folder / MANIFEST, folder, links_into)
        artifact = cls(folder, decode_manifest(_read_manifest(folder)), links_into)
        artifact._check_files()
        artifact.plan()
        return artifact

    def plan(self) -> ResolvedPlan | None:
        """The plan of calls with a top_k and no plan of their own; None: full.

        Raises ArtifactError unless it ends with the full graph.
        """
        text = self.manifest.plan
        if text is None:
            return None
        try:
            plan = resolve_plan(Plan.parse(text), self.manifest.graphs)
        except InputError as error:
            raise ArtifactError(f"{self.folder / MANIFEST}: {error}; export the artifact again") from error
        if plan.graphs[-1] is not self.manifest.full:
            raise ArtifactError(
                f"{self.folder / MANIFEST} has the plan {text}; expected one that ends with {self.manifest.full.name}"
            )
        return plan

    def read(self, name: str) -> bytes:
        """The content of one of its files. Raises ArtifactError unless its SHA-256 is the manifest's."""
        content = _read(self.folder / name, self.manifest.files[name].size)
        self._check_digest(name, hashlib.sha256(content).hexdigest())
        return content

    def _check_hash(self, name: str) -> None:
        """Like `read`, without keeping the content in memory."""
        try:
            with (self.folder / name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ArtifactError(f"{self.folder / name} cannot be read: {error.strerror}") from error
        self._check_digest(name, digest)

    def _check_digest(self, name: str, digest: str) -> None:
        expected = self.manifest.files[name].sha256
        if digest != expected:
            raise ArtifactError(
                f"{self.folder / name} has SHA-256 {digest[:12]}…, but its manifest says {expected[:12]}…: "
                "the file was changed or damaged; copy or export the artifact again"
            )

    def read_graph(self, variant: Variant, *, can_map: bool = False) -> bytes | GraphOnDisk:
        """The variant's graph: as a GraphOnDisk if weights are in other files, or if it is large and `can_map`.

        Raises ArtifactError if `check_graph` refuses it or if it contradicts the manifest.
        """
        names = self._weights_of(variant)
        if not names:
            if can_map and self.manifest.files[variant.file].size >= MAPPED_BYTES:
                return self._map(variant)
            graph = self.read(variant.file)
            self._check_graph(graph, variant)
            return graph
        on_disk = GraphOnDisk.of(self.folder / variant.file, *(self.folder / name for name in names))
        self._check_graph(self.read(variant.file), variant, names)
        for name in names:
            self._check_hash(name)
        return on_disk

    def graph_digest(self, variant: Variant) -> str:
        """What tells the variant's graph from any other, whichever of the files hold its weights; see `digest_graph`.

        Raises ArtifactError if a file cannot be read or is no longer what the manifest says, as its digest would be that of
        another graph than the one which is loaded; and like `read_graph` if the graph is refused.
        """
        names = self._weights_of(variant)
        contents = {name: self._map_file(name) for name in (variant.file, *names)}
        for name, content in contents.items():
            self._check_digest(name, hashlib.sha256(content).hexdigest())
        self._check_graph(contents[variant.file], variant, names)
        return digest_graph(contents[variant.file], contents)

    def _weights_of(self, variant: Variant) -> list[str]:
        """The names of the other files that hold weights of the variant's graph."""
        return [name for name in variant.weight_files() or [f"{variant.file}{WEIGHTS_SUFFIX}"] if name in self.manifest.files]

    def _check_graph(self, content: bytes | memoryview, variant: Variant, weights: Sequence[str] = ()) -> None:
        """Raises ArtifactError if `check_graph` refuses the variant's graph, or if it contradicts the manifest."""
        where = str(self.folder / variant.file)
        check_graph(content, where, *(WeightsFile(name, self.manifest.files[name].size) for name in weights))
        check_statements(content, where, self.manifest.row_of(variant.file), variant.precision)

    def _map(self, variant: Variant) -> GraphOnDisk:
        """The variant's graph, without its large weights, which stay in its file.

        Reads the file once, for its hash, and keeps none of it in memory.
        """
        path = Path(os.path.realpath(self.folder / variant.file))
        on_disk = GraphOnDisk.of(path, path)
        self._check_hash(variant.file)
        view = self._map_file(variant.file)
        self._check_graph(view, variant)
        return on_disk._replace(content=externalize_weights(view, path.name))

    def _map_file(self, name: str) -> memoryview:
        """The content of one of its files, not compared with its hash. Raises ArtifactError if it cannot be mapped."""
        path = self.folder / name
        try:
            with path.open("rb") as file:
                # The map is closed with the last view of it, not before: an error's traceback may hold a view.
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:  # ValueError: it is empty
            raise ArtifactError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error

    def fingerprint(self) -> str:
        """SHA-256 of the manifest, which holds the hashes of all files: the same for every copy of an artifact."""
        return hashlib.sha256(_read_manifest(self.folder)).hexdigest()

    def size(self) -> int:
        """Total bytes of its files."""
        return sum(entry.size for entry in self.manifest.files.values()) + (self.folder / MANIFEST).stat().st_size

    def _check_files(self) -> None:
        for name, entry in self.manifest.files.items():
            path = self.folder / name
            _check_link(path, self.folder, self.links_into)
            if name == CARD:
                continue
            if not path.is_file():
                raise ArtifactError(f"{path} is missing, but its manifest lists it; copy or export the artifact again")
            size = path.stat().st_size
            if size != entry.size:
                _check_downloaded(path)
                raise ArtifactError(
                    f"{path} has {size} bytes, but its manifest says {entry.size}: "
                    "the copy is incomplete or of another version; copy or export the artifact again"
                )
        present = {entry.name for entry in os.scandir(self.folder) if not entry.name.startswith(".")}
        extra = present - self.manifest.files.keys() - {MANIFEST}
        if extra:
            raise ArtifactError(f"{self.folder} holds {', '.join(sorted(extra))}, which its manifest does not list; remove it")


def _check_downloaded(path: Path) -> None:
    """Raises ArtifactError if `path` is a Git LFS pointer."""
    if git_lfs.is_pointer(path):
        raise ArtifactError(f"{path} is {git_lfs.DESCRIPTION} in its folder")


def _check_link(path: Path, *roots: Path | None) -> None:
    """Raises ArtifactError if `path` is a link that leads out of all `roots`."""
    if not path.is_symlink():
        return
    # Path.resolve raises for a loop of links; realpath does not, and the file is then reported as missing.
    target = Path(os.path.realpath(path))
    if not any(root and target.is_relative_to(os.path.realpath(root)) for root in roots):
        raise ArtifactError(f"{path} leads outside the artifact's folder, to {target}; copy the file itself there")


def closed(folder: Path) -> str | None:
    """Why no file may be added to the folder: it is an artifact's. None if it is not."""
    return "would be part of an artifact, which holds only what its manifest lists" if (folder / MANIFEST).is_file() else None


def embedded() -> Mapping[str, Path]:
    """Folders of the models installed with the engine, by name."""
    root = Path(str(files(EMBEDDED_PACKAGE)))
    return {folder.name: folder for folder in root.iterdir() if (folder / MANIFEST).is_file()}


def embedded_of(checkpoint: str, revision: str | None = None) -> Path | None:
    """The folder of the embedded model that was made from the checkpoint of that hub id; None for any other checkpoint.

    As on the hub, case makes no difference, and former ids count. None for another `revision` than the latest.
    """
    name = (checkpoint if "/" in checkpoint else f"{ORGANIZATION}/{checkpoint}").casefold()
    folders = embedded().values() if revision in (None, "main") else ()
    ids = {decode_manifest(_read_manifest(folder)).model.id.casefold(): folder for folder in folders}
    return ids.get(RENAMED.get(name, name))


def _read_manifest(folder: Path) -> bytes:
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"no {MANIFEST} in {folder}: expected an artifact; turn a checkpoint into one with `resift export`")
    _check_downloaded(path)
    if path.stat().st_size > MANIFEST_LIMIT:
        raise ArtifactError(f"{path} has {path.stat().st_size} bytes; expected at most {MANIFEST_LIMIT}: this is not a manifest")
    return _read(path, MANIFEST_LIMIT)


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error

"""Export cache: artifacts of checkpoints, exported once into the user's cache.

They are in the hub client's cache of assets, next to the checkpoints themselves: HF_HOME/assets/resift/exported/NAME/KEY, where KEY
hashes the checkpoint's commit (or the content of its files), the options of the export and resift's version. One process exports
while others wait. An export is written next to its destination and then renamed, so a killed one leaves no incomplete artifact, and
the next export removes its temporary files. Nothing else is ever removed; users may delete any folder there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from resift.artifact import hub
from resift.artifact.folder import CONFIG, DEFAULT, ORGANIZATION, Artifact, embedded, embedded_of
from resift.artifact.manifest import CERTIFICATE, MANIFEST
from resift.errors import ArtifactError, ExportError, ExtraError, InputError, OutputError, ParityError, importing
from resift.files.names import path_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from resift.settings import Precision, Settings

FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
"""The files of a checkpoint that an export reads, at any depth."""
MODULES = "[0-9]*_*"
"""Folders in which sentence-transformers keeps the modules of a checkpoint, such as 1_Pooling."""
EVALUATIONS = 100
"""The maximum cost of a search for products to keep in float32 where the gate refuses int8, as in `resift export --search`."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """The folder or hub id of a model, and the options for its download and its export."""

    name: str
    """a folder, or a hub id"""
    revision: str | None = None
    """the commit, tag or branch of a hub id"""
    cache: str | os.PathLike[str] | None = None
    """the folder for downloads and exports; None: the hub client's own"""
    token: bool | str | None = None
    local_files_only: bool = False
    relevant_label: str | None = None
    """the name or number of the label that means relevant, for a checkpoint with several; None: it has one label, or (no, yes)"""

    def download(self, revision: str | None, files: tuple[str, ...] | None) -> Path:
        """The repository's folder. Raises ArtifactError like `hub.snapshot`."""
        return hub.snapshot(
            self.name, revision, files=files, cache=self.cache, token=self.token, local_files_only=self.local_files_only
        )


def full_name(source: str | os.PathLike[str] | None) -> str:
    """A folder, or a hub id with its organization; None stands for the embedded model."""
    name = DEFAULT if source is None else os.fspath(source)
    if name in embedded():
        return str(embedded()[name])
    if "/" not in name and not os.path.exists(name):  # noqa: PTH110 - Path.exists raises for a name that is too long
        name = f"{ORGANIZATION}/{name}"
    return name


def find(source: ModelSource, settings: Settings) -> Artifact:
    """`find_precision` with the precision of the settings; "auto" is the fastest one on their provider."""
    precision = settings.precision
    if precision == "auto":
        precision = "float32" if settings.provider == "cuda" else "int8"
    try:
        return find_precision(source, precision)
    except ParityError as error:
        raise ParityError(f'{error}; or load it in float32: model_kwargs={{"dtype": "float32"}}') from error
    except ExportError as error:
        raise ExportError(str(error).replace("--relevant-label", "relevant_label=")) from error


def find_precision(source: ModelSource, precision: Precision) -> Artifact:
    """The artifact of `source`: the source itself if it is an artifact, otherwise exported from the checkpoint at its first use.

    The id of an embedded model's checkpoint means the embedded model, if it has the precision and `source` names no other revision.
    Raises ArtifactError if there is neither an artifact nor a checkpoint, InputError if an artifact is to have another relevant
    label, ExtraError if a checkpoint has to be exported and the extra `export` is not installed, OutputError if the cache cannot be
    written, and ExportError or ParityError like `resift export`.
    """
    if os.path.isdir(source.name):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
        folder = Path(source.name)
        if (folder / MANIFEST).is_file():
            return _with_own_label(Artifact.open(folder), source)
        _check_config(folder, source.name)
        name = Path(os.path.realpath(folder)).name
        return _find_or_export(source, name, _digest(folder), precision, lambda: folder)
    if embedded_folder := embedded_of(source.name, source.revision):
        model = Artifact.open(embedded_folder)
        if any(variant.precision == precision for variant in model.manifest.full.variants):
            return _with_own_label(model, source)
    if not re.fullmatch(hub.HUB_ID, source.name) or "@" in source.name:
        raise ArtifactError(f"no model {source.name!r:.200}: expected a folder, an artifact or a checkpoint, or a hub id org/name")
    metadata = source.download(source.revision, (MANIFEST, CERTIFICATE, CONFIG))
    commit = metadata.name
    if (metadata / MANIFEST).is_file() and (metadata / CERTIFICATE).is_file():
        folder = source.download(commit, None)
        return _with_own_label(Artifact.open(folder, links_into=folder.parents[1]), source)
    _check_config(metadata, source.name)
    return _find_or_export(source, source.name, commit, precision, lambda: source.download(commit, FILES))


def _with_own_label(artifact: Artifact, source: ModelSource) -> Artifact:
    """The artifact. Raises InputError if `source` names a relevant label, which is chosen when a checkpoint is exported."""
    if source.relevant_label is not None:
        raise InputError(
            f"relevant_label is {source.relevant_label!r:.80}, but {source.name} is an artifact, whose label was chosen at its "
            "export; leave it out"
        )
    return artifact


def _check_config(folder: Path, name: str) -> None:
    if not (folder / CONFIG).is_file():
        raise ArtifactError(f"{name} holds neither {MANIFEST} nor {CONFIG}; expected an artifact or a Hugging Face checkpoint")


def _digest(folder: Path) -> str:
    """SHA-256 of the names and contents of the files that an export reads."""
    paths = {path for at in ("", f"{MODULES}/") for pattern in FILES for path in folder.glob(at + pattern) if path.is_file()}
    digest = hashlib.sha256()
    for path in sorted(paths):
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
        digest.update(f"{content} {path_text(path.relative_to(folder))}\n".encode())
    return digest.hexdigest()


def _find_or_export(source: ModelSource, name: str, content: str, precision: Precision, fetch: Callable[[], Path]) -> Artifact:
    """The artifact in the cache. If it is missing, it is exported from the checkpoint whose folder `fetch` returns.

    `content` identifies the checkpoint: a commit, or a digest of its files.
    """
    options: dict[str, str | int] = {"precision": precision, "search": EVALUATIONS}
    if source.relevant_label is not None:
        options["relevant_label"] = source.relevant_label
    key = json.dumps({"checkpoint": content, "options": options, "resift": version("resift")}, sort_keys=True)
    destination = _cache_folder(source, name) / hashlib.sha256(key.encode()).hexdigest()[:16]
    if not destination.exists():
        _export(source, name, destination, precision, fetch)
    return Artifact.open(destination)


def _cache_folder(source: ModelSource, name: str) -> Path:
    """The folder of the checkpoint's artifacts in the cache. Raises OutputError if it cannot be created."""
    with importing("huggingface_hub"):
        from huggingface_hub import cached_assets_path

    plain = re.sub(r"[^A-Za-z0-9._-]+", "--", name)[:80]
    assets = None if source.cache is None else Path(source.cache) / "assets"
    try:
        return cached_assets_path("resift", namespace="exported", subfolder=plain, assets_dir=assets)
    except (OSError, ValueError) as error:
        raise OutputError(
            f"the cache for exported checkpoints cannot be created: {error}; set HF_HOME to another folder"
        ) from error


def _export(source: ModelSource, name: str, destination: Path, precision: Precision, fetch: Callable[[], Path]) -> None:
    try:
        from filelock import FileLock

        from resift_export.convert import convert
        from resift_export.recipe import Recipe
    except ImportError as error:
        raise ExtraError(
            f"{source.name} is a checkpoint, and making an artifact of it needs PyTorch and other packages that are not installed "
            f"({error}): pip install 'resift[export]'; or run `resift export {source.name} OUT` where they are, and load OUT here"
        ) from error
    try:
        lock = FileLock(f"{destination}.lock").acquire()
    except OSError as error:
        raise OutputError(
            f"{destination}.lock cannot be written: {error.strerror or error}; set HF_HOME to another folder"
        ) from error
    with lock:
        if destination.exists():  # another process exported it meanwhile
            return
        log.warning("exporting %s once, to %s; this may take minutes", name, destination)
        search = EVALUATIONS if precision == "int8" else None
        recipe = Recipe(precisions=(precision,), search=search, relevant_label=source.relevant_label)
        convert(str(fetch()), destination, recipe, name=name)

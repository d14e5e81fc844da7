"""Exported: artifacts of checkpoints, made once and kept in the user's cache.

They lie in the hub client's cache of assets, beside the checkpoints themselves: HF_HOME/assets/resift/exported/NAME/KEY, where KEY
hashes the checkpoint's commit (or the content of its files), the options of the export and resift's version. One process exports
while others wait. An export is written next to its place and renamed, so a killed one leaves no half artifact, and the next export
removes what it left. Nothing else is ever removed: any folder there may be deleted.
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
from resift.artifact.folder import Artifact, embedded
from resift.artifact.manifest import CERTIFICATE, MANIFEST
from resift.errors import ArtifactError, ExtraError, OutputError
from resift.files.names import path_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from resift.settings import Precision

CONFIG = "config.json"
FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
"""What an export reads of a checkpoint, at any depth."""
MODULES = "[0-9]*_*"
"""Folders in which sentence-transformers keeps the modules of a checkpoint, such as 1_Pooling."""
EVALUATIONS = 100
"""What a search for products to leave in float32 may cost where the gate refuses int8, as in `resift export --search`."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a model comes from, and how the hub is asked for it."""

    name: str
    """a folder, or a hub id"""
    revision: str | None = None
    """of a hub id: a commit, tag or branch"""
    cache: str | os.PathLike[str] | None = None
    """the folder for downloads and exports; None: the hub client's own"""
    token: bool | str | None = None
    local_files_only: bool = False

    def download(self, revision: str | None, files: tuple[str, ...] | None) -> Path:
        """The repository's folder. Raises ArtifactError like `hub.snapshot`."""
        return hub.snapshot(
            self.name, revision, files=files, cache=self.cache, token=self.token, local_files_only=self.local_files_only
        )


def find(source: Source, precision: Precision) -> Artifact:
    """The artifact of `source`: itself if it is one, otherwise exported from the checkpoint at this first use.

    The id of the checkpoint of an embedded model is that model, if it has the precision and no other revision is asked for.
    Raises ArtifactError if there is neither an artifact nor a checkpoint, ExtraError if a checkpoint has to be exported and the
    extra `export` is not installed, OutputError if the cache cannot be written, and ExportError or ParityError like
    `resift export`.
    """
    if os.path.isdir(source.name):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
        folder = Path(source.name)
        if (folder / MANIFEST).is_file():
            return Artifact.open(folder)
        _check_config(folder, source.name)
        name = Path(os.path.realpath(folder)).name
        return _kept(source, name, _digest(folder), precision, lambda: folder)
    known = None if source.revision not in (None, "main") else _embedded(source.name, precision)
    if known is not None:
        return known
    if not re.fullmatch(hub.HUB_ID, source.name) or "@" in source.name:
        raise ArtifactError(f"no model {source.name!r:.200}: expected a folder, an artifact or a checkpoint, or a hub id org/name")
    about = source.download(source.revision, (MANIFEST, CERTIFICATE, CONFIG))
    commit = about.name
    if (about / MANIFEST).is_file() and (about / CERTIFICATE).is_file():
        folder = source.download(commit, None)
        return Artifact.open(folder, links_into=folder.parents[1])
    _check_config(about, source.name)
    return _kept(source, source.name, commit, precision, lambda: source.download(commit, FILES))


def _embedded(name: str, precision: Precision) -> Artifact | None:
    """The embedded model that was made from the checkpoint `name`."""
    for folder in embedded().values():
        artifact = Artifact.open(folder)
        manifest = artifact.manifest
        if manifest.model.id == name and any(variant.precision == precision for variant in manifest.full.variants):
            return artifact
    return None


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


def _kept(source: Source, name: str, content: str, precision: Precision, fetch: Callable[[], Path]) -> Artifact:
    """The artifact in the cache, made if it is missing from the checkpoint whose folder `fetch` returns.

    `content` identifies the checkpoint: a commit, or a digest of its files.
    """
    options = {"precision": precision, "search": EVALUATIONS}
    key = json.dumps({"checkpoint": content, "options": options, "resift": version("resift")}, sort_keys=True)
    place = _shelf(source, name) / hashlib.sha256(key.encode()).hexdigest()[:16]
    if not place.exists():
        _export(source, name, place, precision, fetch)
    return Artifact.open(place)


def _shelf(source: Source, name: str) -> Path:
    """The folder of the checkpoint's artifacts in the cache. Raises OutputError if it cannot be created."""
    from huggingface_hub import cached_assets_path

    plain = re.sub(r"[^A-Za-z0-9._-]+", "--", name)[:80]
    assets = None if source.cache is None else Path(source.cache) / "assets"
    try:
        return cached_assets_path("resift", namespace="exported", subfolder=plain, assets_dir=assets)
    except (OSError, ValueError) as error:
        raise OutputError(
            f"the cache for exported checkpoints cannot be created: {error}; set HF_HOME to another folder"
        ) from error


def _export(source: Source, name: str, place: Path, precision: Precision, fetch: Callable[[], Path]) -> None:
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
        held = FileLock(f"{place}.lock").acquire()
    except OSError as error:
        raise OutputError(f"{place}.lock cannot be written: {error.strerror or error}; set HF_HOME to another folder") from error
    with held:
        if place.exists():  # another process made it meanwhile
            return
        log.warning("exporting %s once, to %s; this may take minutes", name, place)
        recipe = Recipe(precisions=(precision,), search=EVALUATIONS if precision == "int8" else None)
        convert(str(fetch()), place, recipe, name=name)

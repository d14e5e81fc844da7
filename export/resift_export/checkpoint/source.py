"""source: the folder that holds a checkpoint's files, downloaded from a hub if necessary."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from resift.artifact import hub
from resift.artifact.manifest import TOKENIZER
from resift.errors import ArtifactError, ExportError
from resift.files import git_lfs

if TYPE_CHECKING:
    from collections.abc import Iterable

COMMIT = re.compile("[0-9a-f]{40}")
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
PICKLED_WEIGHTS = ("pytorch_model*.bin", "*/pytorch_model.bin", "pytorch_model.bin.index.json")
TEXTS = ("*.json", "*.jinja")
VOCABULARIES = ("*.txt", "*.model")
"""Files that nothing reads beside a tokenizer.json, which holds the vocabulary, too."""
UNREAD = ("README.md", "LICENSE*")


def folder_of(source: str) -> Path | None:
    """The folder that `source` names; None if there is no such folder, in which case `source` can only be a hub id."""
    return Path(source) if os.path.isdir(source) else None  # noqa: PTH112 - Path.is_dir raises if a name is too long


def check_downloaded(folders: Iterable[Path], *, allow_pickle: bool) -> None:
    """Raises ExportError if a file that is read of a checkpoint in these folders is a Git LFS pointer, or a link to nothing."""
    for folder in folders:
        weights = PICKLED_WEIGHTS if allow_pickle and not any(folder.glob(WEIGHTS[0])) else WEIGHTS
        vocabularies = () if (folder / TOKENIZER).is_file() else VOCABULARIES
        for path in sorted(path for pattern in (*TEXTS, *vocabularies, *weights) for path in folder.glob(pattern)):
            if git_lfs.is_pointer(path):
                raise ExportError(f"{path} is {git_lfs.DESCRIPTION} in its folder")
            if path.is_symlink() and not os.path.exists(path):  # noqa: PTH110 - Path.exists raises where it may not look
                raise ExportError(
                    f"{path} is a link to a file that is not there; expected the file: copy the folder with what its links lead to "
                    "(cp -L), or download it again"
                )


def commit_of(folder: Path) -> str | None:
    """The commit after which a folder in the hub client's cache is named; None for any other folder.

    https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """
    return folder.name if folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name) else None


def download(source: str, revision: str | None, *, allow_pickle: bool) -> tuple[Path, str]:
    """Downloads a hub id at `revision` (None: the latest) and returns the folder and its commit. Raises ExportError."""
    try:
        files = [*TEXTS, *VOCABULARIES, *UNREAD, *WEIGHTS, *(PICKLED_WEIGHTS if allow_pickle else ())]
        folder = hub.snapshot(source, revision, files=files)
    except ArtifactError as error:
        raise ExportError(str(error)) from error
    return folder, folder.name

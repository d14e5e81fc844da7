"""source: the folder that holds a checkpoint's files, downloaded from a hub if necessary."""

from __future__ import annotations

import os
from pathlib import Path

from resift.errors import ExportError

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
PICKLED_WEIGHTS = ("pytorch_model*.bin", "*/pytorch_model.bin", "pytorch_model.bin.index.json")
TEXTS = ("*.json", "*.jinja", "*.txt", "*.model", "README.md", "LICENSE*")


def folder_of(source: str) -> Path | None:
    """The folder that `source` names; None if there is no such folder, in which case `source` can only be a hub id."""
    return Path(source) if os.path.isdir(source) else None  # noqa: PTH112 - Path.is_dir raises if a name is too long


def download(source: str, revision: str | None, *, allow_pickle: bool) -> tuple[Path, str]:
    """Downloads a hub id at `revision` (None: the latest) and returns the folder and its commit. Raises ExportError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

    patterns = [*TEXTS, *WEIGHTS, *(PICKLED_WEIGHTS if allow_pickle else ())]
    try:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except HFValidationError as error:
        raise ExportError(f"{source!r:.200} is neither a folder nor a hub id such as org/name") from error
    except RevisionNotFoundError as error:
        raise ExportError(
            f"{source} has no revision {revision!r:.80} on the hub; expected a commit, tag or branch of it, or no --revision for "
            "the latest"
        ) from error
    except Exception as error:
        # No network, offline mode, no such model or revision, no access, a broken connection, or answers that do not come from a
        # hub. Some of these are errors of the client's HTTP library, which differs between the client's major versions.
        raise ExportError(
            f"{source!r:.200} is not a folder and could not be downloaded from the hub "
            f"({type(error).__name__}: {first_line(error)}); "
            "name a checkpoint folder, or check the connection, the id, the revision and your access"
        ) from error
    return folder, folder.name


def first_line(error: Exception) -> str:
    """The first line of an error's message, shortened, or its type if the message is empty."""
    return f"{next(iter(str(error).splitlines()), type(error).__name__):.300}"

"""Hub: repositories of a model hub, with artifacts or checkpoints, downloaded into the hub client's own cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from resift.errors import ArtifactError, first_line, importing

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

HUB_ID = re.compile(r"^(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?$")
"""org/name, or org/name@revision with a commit, tag or branch."""


def snapshot(  # noqa: PLR0913 - the arguments of the hub's client, by name
    repository: str,
    revision: str | None,
    *,
    files: Sequence[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    token: bool | str | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder, named after the commit, that holds a repository's files at `revision` (None: the latest).

    `files`: patterns of the files to download; None: all. `cache`: another folder than the hub client's own. Cached files of a
    commit are not requested again; HF_HUB_OFFLINE=1, HF_HOME, HF_ENDPOINT and HF_TOKEN are honoured
    (https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables). Raises ArtifactError on failure, and
    ExtraError if the hub's client cannot be imported.
    """
    with importing("huggingface_hub"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=None if files is None else list(files),
                cache_dir=None if cache is None else Path(cache),
                token=token,
                local_files_only=local_files_only,
            )
        )
    except HFValidationError as error:
        raise ArtifactError(f"{repository!r:.200} is neither a folder nor a hub id such as org/name") from error
    except RevisionNotFoundError as error:
        raise ArtifactError(
            f"{repository} has no revision {revision!r:.80} on the hub; "
            "expected a commit, tag or branch of it, or none for the latest"
        ) from error
    except Exception as error:
        # No network, offline and not cached, no such model, no access, a connection that breaks, answers of a server that is not a
        # hub. Some are errors of the client's HTTP library, which differs between the client's major versions.
        name = repository if revision is None else f"{repository}@{revision}"
        raise ArtifactError(
            f"{name!r:.200} is not a folder and cannot be downloaded from the hub ({type(error).__name__}: {first_line(error)}); "
            "check the id, the revision, the network and your access"
        ) from error

"""Artifacts published on a model hub, kept in the hub client's own cache."""

from __future__ import annotations

import re
from pathlib import Path

from resift.errors import ArtifactError

HUB_ID = re.compile(r"^(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?$")
"""org/name, or org/name@revision with a commit, tag or branch."""


def download(source: str) -> tuple[Path, Path]:
    """The folder of `source`, org/name or org/name@revision, and the cache folder that its links may lead into.

    Cached files of a commit are not requested again; HF_HUB_OFFLINE=1, HF_HOME, HF_ENDPOINT and HF_TOKEN are honoured
    (https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables). Raises ArtifactError on failure.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    found = HUB_ID.match(source)
    assert found is not None
    try:
        folder = Path(snapshot_download(found["id"], revision=found["revision"]))
    except (OSError, HFValidationError) as error:
        # The client's failures are OSErrors: no network, offline and not cached, no such model or revision, no access.
        raise ArtifactError(
            f"{source!r:.200} is neither a folder nor an embedded model, and cannot be downloaded from the hub "
            f"({type(error).__name__}: {str(error).splitlines()[0]:.300}); check the id, the revision, the network and your access"
        ) from error
    return folder, folder.parents[1]

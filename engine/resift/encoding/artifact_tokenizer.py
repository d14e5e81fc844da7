"""Opening: the tokenizer of an artifact, checked against what its model was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resift.artifact.manifest import TOKENIZER
from resift.encoding.tokenizer import PairTokenizer
from resift.errors import ArtifactError

if TYPE_CHECKING:
    from resift.artifact.folder import Artifact
    from resift.settings import ResolvedSettings, Truncation


def open_tokenizer(artifact: Artifact, settings: ResolvedSettings | None = None) -> PairTokenizer:
    """A tokenizer of pairs as the artifact's graphs read them. `settings`: None for pairs of the longest length.

    Raises ArtifactError if its template or vocabulary is not that of the manifest, and like PairTokenizer.
    """
    pair = artifact.manifest.pair
    limits: tuple[int, Truncation]
    limits = (pair.max_length, "only_second") if settings is None else (settings.max_length, settings.truncation)
    tokenizer = PairTokenizer(artifact.read(TOKENIZER), limits[0], prompt=pair.prompt, truncation=limits[1])
    found = tokenizer.template()
    if found != pair.template:
        raise ArtifactError(
            f"tokenizer.json joins a pair as {found}, but the model was trained on {pair.template}; export the artifact again"
        )
    if tokenizer.vocabulary > pair.vocabulary:
        raise ArtifactError(
            f"tokenizer.json has {tokenizer.vocabulary} tokens, but the model has {pair.vocabulary}: "
            "it belongs to another model; export the artifact again"
        )
    return tokenizer

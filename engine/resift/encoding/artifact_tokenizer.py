"""Opening: the tokenizer of an artifact, checked against what its model was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resift.artifact.manifest import TOKENIZER
from resift.encoding.tokenizer import PairTokenizer
from resift.errors import ArtifactError

if TYPE_CHECKING:
    from resift.artifact.folder import Artifact
    from resift.settings import ResolvedSettings


def open_tokenizer(artifact: Artifact, settings: ResolvedSettings) -> PairTokenizer:
    """A tokenizer of pairs as the artifact's graphs read them.

    Raises ArtifactError if its template or vocabulary is not that of the manifest, and like PairTokenizer.
    """
    pair = artifact.manifest.pair
    tokenizer = PairTokenizer(artifact.read(TOKENIZER), settings.max_length, prompt=pair.prompt, truncation=settings.truncation)
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

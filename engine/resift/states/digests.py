"""Digests: the names of documents by what the model reads of them, and the checksums of their states."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DIGEST_BYTES = 16
"""Two of ten million documents have one digest with a probability below 1e-24."""
CHECKSUM_BYTES = 8


def digest_of(ids: NDArray[np.int32], segment_ids: NDArray[np.int32]) -> bytes:
    """The digest of a document's tokens as the document half reads them: 16 bytes of BLAKE2b (RFC 7693).

    `ids`, `segment_ids`: int32[tokens] each, from the document's first token to the last one read. It is the same on any machine.
    """
    content = ids.astype("<i4").tobytes() + segment_ids.astype("<i4").tobytes()
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def checksum_of(digest: bytes, content: bytes) -> bytes:
    """The checksum of a document's states together with its digest, so that states are read for no other document."""
    return hashlib.blake2b(content, digest_size=CHECKSUM_BYTES, salt=digest).digest()

"""Embeds texts with sentence-transformers, where it is installed and a model of it is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resift.errors import ExtraError, InputError, first_line
from resift.retrieval.vectors import Vectors

if TYPE_CHECKING:
    from collections.abc import Sequence


def embed(model: str, documents: Sequence[str], queries: Sequence[str]) -> Vectors:
    """The vectors of texts by a SentenceTransformer, a folder or a hub id, with its prompts for queries and for documents.

    Code from the model's folder is never run. Raises ExtraError without sentence-transformers, InputError if the model cannot be
    loaded.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ExtraError(
            f"embedding with {model} needs sentence-transformers, which cannot be imported: pip install sentence-transformers"
        ) from error
    try:
        embedder = SentenceTransformer(model, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise InputError(f"the embedder {model} cannot be loaded: {first_line(error)}; name a SentenceTransformer") from error
    as_documents = embedder.encode_document(list(documents), show_progress_bar=False)
    as_queries = embedder.encode_query(list(queries), show_progress_bar=False)
    return Vectors(np.asarray(as_documents), np.asarray(as_queries))

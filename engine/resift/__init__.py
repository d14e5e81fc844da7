"""resift: reranks the documents that a retriever found, with a cross-encoder, on onnxruntime, tokenizers and numpy alone."""

from resift.errors import (
    ArtifactError,
    ClosedError,
    ExportError,
    ExtraError,
    InferenceError,
    InputError,
    LogitsError,
    OutputError,
    OverloadedError,
    ParityError,
    ProviderError,
    ResiftError,
)
from resift.plans import Plan, Stage
from resift.ranking import RankedDocument, Ranking, Scored
from resift.reranker import Reranker
from resift.settings import Settings

__all__ = [
    "ArtifactError",
    "ClosedError",
    "ExportError",
    "ExtraError",
    "InferenceError",
    "InputError",
    "LogitsError",
    "OutputError",
    "OverloadedError",
    "ParityError",
    "Plan",
    "ProviderError",
    "RankedDocument",
    "Ranking",
    "Reranker",
    "ResiftError",
    "Scored",
    "Settings",
    "Stage",
]

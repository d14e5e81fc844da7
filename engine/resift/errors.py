"""What can go wrong, as one tree:

    ResiftError
    ├── ArtifactError          an artifact is missing, damaged, newer than this resift, or does not fit together
    ├── InputError             a query, document, pool or setting that cannot be used (also a ValueError)
    ├── ProviderError          the execution provider asked for cannot run this artifact here
    ├── InferenceError         onnxruntime failed while it ran a batch
    ├── LogitsError            the model answered with NaN or infinity
    ├── OverloadedError        too much is waiting already
    ├── ClosedError            the Reranker was closed before this call
    ├── OutputError            a file cannot be written, or must not be
    ├── ExtraError             an optional part of resift is not installed (also an ImportError)
    ├── ExportError            a checkpoint cannot be loaded, traced or written
    └── ParityError            an artifact does not rank as its checkpoint does

A value of the wrong type is a plain TypeError. Every message says what was found, what was expected and the mend.
"""

from __future__ import annotations


class ResiftError(Exception):
    """The base of every error resift raises itself."""


class ArtifactError(ResiftError):
    """An artifact is missing, damaged, newer than this resift, or does not fit together."""


class InputError(ResiftError, ValueError):
    """A query, document, pool or setting that cannot be used."""


class ProviderError(ResiftError):
    """The execution provider asked for cannot run this artifact on this machine."""


class InferenceError(ResiftError):
    """onnxruntime failed while it ran a batch: no memory was left, or the graph does not fit its inputs."""


class OverloadedError(ResiftError):
    """Too much is waiting already; try again later."""


class LogitsError(ResiftError):
    """The model answered with NaN or infinity, so there is nothing to rank on."""


class ClosedError(ResiftError):
    """The Reranker was closed before this call."""


class OutputError(ResiftError):
    """A file cannot be written, or must not be, as it holds something else."""


class ExtraError(ResiftError, ImportError):
    """An optional part of resift is needed and not installed."""


class ExportError(ResiftError):
    """A checkpoint cannot be loaded, traced or written."""


class ParityError(ResiftError):
    """An artifact does not rank as its checkpoint does, within the stated bounds."""

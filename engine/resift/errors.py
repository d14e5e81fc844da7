"""What can go wrong, as one tree:

    ResiftError
    ├── ArtifactError          an artifact is missing, damaged, newer than this resift, or inconsistent
    ├── InputError             a query, document, pool or setting that cannot be used (also a ValueError)
    ├── ProviderError          the requested execution provider cannot run this artifact here
    ├── InferenceError         onnxruntime failed while running a batch
    ├── LogitsError            the model returned NaN or infinity
    ├── OverloadedError        too much work is waiting already
    ├── ClosedError            the Reranker was closed before this call
    ├── OutputError            a file cannot or must not be written
    ├── ExtraError             an optional part of resift is not installed (also an ImportError)
    ├── ExportError            a checkpoint cannot be loaded, traced or written
    └── ParityError            an artifact does not rank like its checkpoint

A value of the wrong type is a plain TypeError. Every message says what was found, what was expected and how to fix it, in one line.
"""

from __future__ import annotations

MESSAGE_LIMIT = 1000
"""Maximum number of characters in a message."""
TAIL = 400
"""Characters that a message which is too long keeps of its end, where it says how to fix what was found."""


def one_line(message: str) -> str:
    """The message with a space for each line break and, if it is longer than MESSAGE_LIMIT, without its middle.

    Whatever a message quotes from a file of a stranger, it says what was found and what to do.
    """
    line = " ".join(message.splitlines())
    return line if len(line) <= MESSAGE_LIMIT else f"{line[: MESSAGE_LIMIT - TAIL - 3]} … {line[-TAIL:]}"


class ResiftError(Exception):
    """Base class of all errors that resift defines. Its message is one line; see `one_line`."""

    def __init__(self, message: str, **keywords: str | None) -> None:
        """`keywords`: those of ImportError, for an ExtraError."""
        super().__init__(one_line(message), **keywords)


class ArtifactError(ResiftError):
    """An artifact is missing, damaged, newer than this resift, or inconsistent."""


class InputError(ResiftError, ValueError):
    """A query, document, pool or setting that cannot be used."""


class ProviderError(ResiftError):
    """The requested execution provider cannot run this artifact on this machine."""


class InferenceError(ResiftError):
    """onnxruntime failed while running a batch: out of memory, or the graph does not accept its inputs."""


class OverloadedError(ResiftError):
    """Too much work is waiting already; try again later."""


class LogitsError(ResiftError):
    """The model returned NaN or infinity, by which documents cannot be ranked."""


class ClosedError(ResiftError):
    """The Reranker was closed before this call."""

    def __init__(self, message: str = "this Reranker is closed; load another") -> None:
        super().__init__(message)


class OutputError(ResiftError):
    """A file cannot be written, or must not be, because it holds something else."""


class ExtraError(ResiftError, ImportError):
    """An optional part of resift is needed but not installed."""


class ExportError(ResiftError):
    """A checkpoint cannot be loaded, traced or written."""


class ParityError(ResiftError):
    """An artifact does not rank like its checkpoint, within the stated bounds."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not blank, cut to 300 characters; the name of its type if there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)[:300]

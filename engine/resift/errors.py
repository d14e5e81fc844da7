"""What can go wrong, as one tree:

    ResiftError
    ├── ArtifactError          an artifact is missing, damaged, newer than this resift, or inconsistent
    ├── InputError             a query, document, pool or setting that cannot be used (also a ValueError)
    ├── ProviderError          the requested execution provider cannot run this artifact here
    ├── InferenceError         a batch cannot run: threads are short, or onnxruntime failed
    │   └── OutOfMemoryError   memory is too short for a batch
    ├── LogitsError            the model returned NaN or infinity
    ├── OverloadedError        too much work is waiting already
    ├── ClosedError            the Reranker was closed before this call
    ├── OutputError            a file cannot or must not be written
    ├── ExtraError             a package that resift needs, or an optional part, cannot be imported (also an ImportError)
    ├── ExportError            a checkpoint cannot be loaded, traced or written
    └── ParityError            an artifact does not rank like its checkpoint

A value of the wrong type is a plain TypeError. Every message says what was found, what was expected and how to fix it, in one line.
"""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager

TYPE_CHECKING = False  # importing typing takes longer than this module
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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

    def __init__(self, message: object = "", **keywords: str | None) -> None:
        """`keywords`: those of ImportError, for an ExtraError."""
        super().__init__(one_line(str(message)), **keywords)


class ArtifactError(ResiftError):
    """An artifact is missing, damaged, newer than this resift, or inconsistent."""


class InputError(ResiftError, ValueError):
    """A query, document, pool or setting that cannot be used."""


class ProviderError(ResiftError):
    """The requested execution provider cannot run this artifact on this machine."""


class InferenceError(ResiftError):
    """A batch cannot run: memory or threads are short, or the graph does not accept its inputs."""


class OutOfMemoryError(InferenceError):
    """Memory, the processor's or the GPU's, is too short for a batch. Batches of several pairs are halved and tried again."""


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
    """A package that resift needs, or an optional part of resift, is not installed or cannot be imported."""


class ExportError(ResiftError):
    """A checkpoint cannot be loaded, traced or written."""


class ParityError(ResiftError):
    """An artifact does not rank like its checkpoint, within the stated bounds."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not blank, cut to 300 characters; the name of its type if there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)[:300]


SHORTAGES = {
    r"ThreadPoolBuildError|start new thread": "no thread can be started: raise the limit of processes or of memory (ulimit -u, "
    "ulimit -v, the container's), or use fewer threads",
    r"bad_?alloc|allocate memory": "memory is short: raise its limit (ulimit -v, the container's), or use fewer threads or a "
    "smaller max_length",
    r"procfs at /proc": "/proc is not mounted here, through which onnxruntime reads weights from a file of their own: mount it",
}
"""What a process can be short of, and what to do, by what other libraries say then."""


def shortage(error: BaseException) -> str | None:
    """What the process is short of, and what to do, if that is why another library failed; otherwise None."""
    return next((mend for said, mend in SHORTAGES.items() if re.search(said, f"{type(error).__name__}: {error}")), None)


MEMORY = re.compile(
    r"bad_?alloc|MemoryError|allocate memory|out of memory|_ALLOC(?:ATION)?_FAILED|Available memory of \d+ is smaller",
    re.IGNORECASE,
)
"""How onnxruntime, CUDA, cuBLAS and cuDNN say that memory is too short."""
GPU_MEMORY = "the GPU's memory is short: use a smaller token_budget or max_length, raise the option gpu_mem_limit, or free the GPU"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether another library failed because memory is too short."""
    return MEMORY.search(f"{type(error).__name__}: {error}") is not None


SAME_NAME = frozenset(
    {"huggingface_hub", "msgspec", "numpy", "onnx", "onnxruntime", "safetensors", "starlette", "tokenizers", "torch", "tqdm"}
    | {"transformers", "uvicorn"}
)
"""Modules that packages of the same name install; of any other module, the package of its name may be a stranger's."""


@contextmanager
def importing(package: str = "resift", find_mend: Callable[[], str] | None = None) -> Iterator[None]:
    """Turns any error of the block, which imports `package`, into an ExtraError that names what is to be installed again.

    `find_mend` says what to do if it is `package` itself that cannot be imported; None: install it again.
    """
    try:
        yield
    except Exception as error:
        raise import_failure(error, package, find_mend) from error


def import_failure(error: Exception, package: str = "resift", find_mend: Callable[[], str] | None = None) -> ExtraError:
    """The error of an import as one line. `package` is to be installed again, unless the error names one of SAME_NAME.

    `find_mend`: as for `importing`.
    """
    name = ((isinstance(error, ImportError) and error.name) or package).partition(".")[0]
    if name in sys.stdlib_module_names:
        mend = "it is part of Python; install a Python that has it"
    elif find_mend and name == package:
        mend = find_mend()
    else:
        mend = f"pip install --force-reinstall {name if name in SAME_NAME else package}"
    return ExtraError(f"{name} cannot be imported ({first_line(error.__cause__ or error)}): {mend}", name=name)

"""The original: a checkpoint in sentence-transformers' CrossEncoder, for evaluations and as the reference of an export."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from resift.errors import ExtraError, InputError, first_line

OLDEST_VERSION = 6
"""The first major version of sentence-transformers whose predict can be told which text to cut."""


def load_cross_encoder(source: str, **options: Any) -> Any:
    """The CrossEncoder of a folder or a hub id. `options`: the other arguments of its class.

    It is sentence-transformers' own, even where a program has put another class in its place, such as resift's drop-in. Raises
    ExtraError if sentence-transformers is not installed or too old, and InputError if it cannot load the checkpoint.
    """
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        raise ExtraError(
            f"a checkpoint runs in sentence-transformers, which cannot be imported ({error}): "
            f"pip install 'sentence-transformers>={OLDEST_VERSION}'"
        ) from error
    installed = version("sentence-transformers")
    if int(installed.split(".")[0]) < OLDEST_VERSION:
        raise ExtraError(
            f"sentence-transformers is {installed}; expected {OLDEST_VERSION} or newer: "
            f"pip install 'sentence-transformers>={OLDEST_VERSION}'"
        )
    original = _original(CrossEncoder)
    try:
        return original(source, **options)
    except MemoryError:
        raise
    except Exception as error:
        # Raised by sentence-transformers, transformers, the hub's client or its HTTP library.
        raise InputError(
            f"sentence-transformers {installed} cannot load the checkpoint {source!r:.200}: {first_line(error)}; "
            "expected a cross-encoder's folder with safetensors weights, or a hub id"
        ) from error


def _original(found: Any) -> Any:
    """The class of sentence-transformers in whose place `found` may stand. Raises InputError if another one stands there, too."""
    from sentence_transformers.cross_encoder import model

    for kind in (found, model.CrossEncoder):
        if kind.__module__.startswith("sentence_transformers."):
            return kind
    raise InputError(
        f"sentence_transformers.cross_encoder.model.CrossEncoder is {model.CrossEncoder!r:.200}; expected sentence-transformers' "
        "own class, by which a checkpoint is judged: put another one only in the place of sentence_transformers.CrossEncoder"
    )

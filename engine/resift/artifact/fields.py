"""Fields: the types of which the files of an artifact are made."""

from __future__ import annotations

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=1 << 31)]
Version = Annotated[str, msgspec.Meta(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")]
FILE_NAME_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
FileName = Annotated[str, msgspec.Meta(pattern=FILE_NAME_PATTERN, max_length=100)]
GraphFile = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\.onnx$", max_length=100)]
Name = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]*$", max_length=40)]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a file of the artifact, in which an unknown field is an error."""

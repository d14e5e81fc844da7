"""Model list: the served models in OpenAI's format, GET /v1/models, which clients ask when they are set up.

https://platform.openai.com/docs/api-reference/models
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from resift.serve.models import Models


class ModelObject(msgspec.Struct):
    """One model."""

    id: str
    created: int
    """Unix time at which this server started"""
    object: Literal["model"] = "model"
    owned_by: str = "resift"


class ModelList(msgspec.Struct):
    """All models, each under each of its names."""

    data: list[ModelObject]
    object: Literal["list"] = "list"


def listed(models: Models, created: int) -> ModelList:
    """The list of the models; the names that clients see come first."""
    return ModelList([ModelObject(name, created) for name in models.names])


def found(models: Models, name: str, created: int) -> ModelObject:
    """The model that a request for `name` would get. Raises Refusal for a name that requests cannot have either."""
    shown, _ = models.choose(name)
    return ModelObject(name if name in models.names else shown, created)

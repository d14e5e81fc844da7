"""Models: the served Rerankers and their names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

from resift.errors import InputError
from resift.serve.request import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resift.reranker import Reranker
    from resift.serve.config import Config


class Models:
    """The served models by the name that clients see. The first one answers requests that name no model."""

    def __init__(self, rerankers: Mapping[str, Reranker], aliases: Mapping[str, str], *, strict: bool = False) -> None:
        """`aliases`: further names of models, by which clients may ask for them, too.

        `strict`: even a single model is found only by its names.
        """
        self.rerankers = dict(rerankers)
        self.names = {**{name: name for name in rerankers}, **aliases}
        """for every name, the one that clients see"""
        self._sole_name = next(iter(rerankers)) if len(rerankers) == 1 and not strict else None

    @classmethod
    def load(cls, config: Config) -> Self:
        """Loads the models. Raises like `Reranker.load`, and InputError for names that contradict each other."""
        from resift.reranker import Reranker

        sources: list[str | None] = [*config.model] or [None]
        if twice := next((source for source in sources if sources.count(source) > 1), None):
            raise InputError(f"--model {twice} is given twice; give each model once")
        settings = config.engine()
        rerankers: dict[str, Reranker] = {}
        shown: dict[str | None, str] = {}  # by source
        names: dict[str, str] = {}
        for source in sources:
            reranker = Reranker.load(source, settings=settings)
            own = _names(source, reranker)
            if config.name and not rerankers:
                own.insert(0, config.name)
            name = next((name for name in own if name not in names), None)  # two artifacts may be of one checkpoint
            if name is None:
                raise InputError(f"--model {source}: a model is named {own[-1]!r} already; rename the folder of one of them")
            rerankers[name], shown[source] = reranker, name
            names |= {other: name for other in own if other not in names}
        aliases: dict[str, str] = {}
        for alias in config.alias:
            new, _, model = alias.partition("=")
            known = {**names, **{source: name for source, name in shown.items() if source is not None}}
            if model not in known:
                raise InputError(f"--alias {alias}: no model {model!r}; expected one of {', '.join(known)}")
            if new in {**names, **aliases}:
                raise InputError(f"--alias {alias}: {new!r} is a model's name already")
            aliases[new] = known[model]
        return cls(rerankers, {**names, **aliases}, strict=config.strict_model)

    @property
    def first(self) -> str:
        """The name of the model that answers requests that name none."""
        return next(iter(self.rerankers))

    def choose(self, name: str | None) -> tuple[str, Reranker]:
        """The Reranker for a client's `name`, and the name that clients see. Raises Refusal that lists all names."""
        shown = self.first if name is None else self.names.get(name, self._sole_name)
        if shown is None:
            raise Refusal("model", f"no model {name!r:.200} is served; expected one of {', '.join(map(repr, self.names))}")
        return shown, self.rerankers[shown]

    def close(self) -> None:
        """Closes all models."""
        for reranker in self.rerankers.values():
            reranker.close()


def _names(source: str | None, reranker: Reranker) -> list[str]:
    """The names of a model: its id, and that of its folder, or the hub id or the embedded model's name that it was loaded by.

    None of them is a path of this machine.
    """
    model_id = reranker.artifact.manifest.model.id
    if source is not None and not os.path.isdir(source):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
        return list(dict.fromkeys([model_id, source]))
    return list(dict.fromkeys([model_id, Path(os.path.realpath(reranker.artifact.folder)).name]))

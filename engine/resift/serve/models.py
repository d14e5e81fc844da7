"""Models: which Reranker answers to which name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from resift.errors import InputError
from resift.serve.request import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resift.reranker import Reranker
    from resift.serve.config import Config


class Models:
    """The served models by true name, first the one that answers where none is named."""

    def __init__(
        self,
        rerankers: Mapping[str, Reranker],
        aliases: Mapping[str, str],
        sources: Mapping[str, str] | None = None,
        *,
        strict: bool = False,
    ) -> None:
        """`aliases` and `sources`: other names to true ones; sources, which may be folders of this machine, are not told.

        `strict`: a single model, too, is only found by its names.
        """
        self.rerankers = dict(rerankers)
        self._told = [*rerankers, *aliases]
        self._names = {**(sources or {}), **aliases, **{name: name for name in rerankers}}
        self._only = next(iter(rerankers)) if len(rerankers) == 1 and not strict else None

    @classmethod
    def load(cls, config: Config) -> Self:
        """Loads the models. Raises what Reranker.load raises, and InputError for names that do not go together."""
        from resift.reranker import Reranker

        rerankers: dict[str, Reranker] = {}
        named: dict[str, str] = {}
        aliases: dict[str, str] = {}
        sources: list[str | None] = [*config.model] or [None]
        settings = config.engine()
        for source in sources:
            reranker = Reranker.load(source, settings=settings)
            name = reranker.artifact.manifest.model.id
            if source in named:
                raise InputError(f"--model {source} is given twice; give each model once")
            if name in rerankers and source is not None:
                name = source  # another artifact of the same checkpoint
            rerankers[name] = reranker
            named |= {} if source is None else {source: name}
        for alias in config.alias:
            new, _, model = alias.partition("=")
            if model not in rerankers and model not in named:
                raise InputError(f"--alias {alias}: no model {model!r}; expected one of {', '.join({**rerankers, **named})}")
            if new in {**rerankers, **named, **aliases}:
                raise InputError(f"--alias {alias}: {new!r} is a model's name already")
            aliases[new] = named.get(model, model)
        return cls(rerankers, aliases, named, strict=config.strict_model)

    @property
    def first(self) -> str:
        """The true name of the model that answers where none is named."""
        return next(iter(self.rerankers))

    def choose(self, name: str | None) -> tuple[str, Reranker]:
        """The true name and the Reranker for what a client wrote. Raises Refusal that lists the models for an unknown name."""
        true = self.first if name is None else self._only or self._names.get(name)
        if true is None:
            raise Refusal("model", f"no model {name!r:.200} is served; expected one of {', '.join(map(repr, self._told))}")
        return true, self.rerankers[true]

    def close(self) -> None:
        """Closes all models."""
        for reranker in self.rerankers.values():
            reranker.close()

"""Models: the served Rerankers and their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from resift.errors import InputError
from resift.serve.request import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resift.reranker import Reranker
    from resift.serve.config import Config


class Models:
    """The served models by true name. The first one answers requests that name no model."""

    def __init__(
        self,
        rerankers: Mapping[str, Reranker],
        aliases: Mapping[str, str],
        sources: Mapping[str, str] | None = None,
        *,
        strict: bool = False,
    ) -> None:
        """`aliases` and `sources` map other names to true ones. Clients never see sources, which may be folders of this machine.

        `strict`: even a single model is found only by its names.
        """
        self.rerankers = dict(rerankers)
        self._public_names = [*rerankers, *aliases]
        self._names = {**(sources or {}), **aliases, **{name: name for name in rerankers}}
        self._sole_name = next(iter(rerankers)) if len(rerankers) == 1 and not strict else None

    @classmethod
    def load(cls, config: Config) -> Self:
        """Loads the models. Raises like `Reranker.load`, and InputError for names that contradict each other."""
        from resift.reranker import Reranker

        rerankers: dict[str, Reranker] = {}
        names: dict[str, str] = {}
        aliases: dict[str, str] = {}
        sources: list[str | None] = [*config.model] or [None]
        settings = config.engine()
        for source in sources:
            reranker = Reranker.load(source, settings=settings)
            name = reranker.artifact.manifest.model.id
            if source in names:
                raise InputError(f"--model {source} is given twice; give each model once")
            if name in rerankers and source is not None:
                name = source  # another artifact of the same checkpoint
            rerankers[name] = reranker
            names |= {} if source is None else {source: name}
        for alias in config.alias:
            new, _, model = alias.partition("=")
            if model not in rerankers and model not in names:
                raise InputError(f"--alias {alias}: no model {model!r}; expected one of {', '.join({**rerankers, **names})}")
            if new in {**rerankers, **names, **aliases}:
                raise InputError(f"--alias {alias}: {new!r} is a model's name already")
            aliases[new] = names.get(model, model)
        return cls(rerankers, aliases, names, strict=config.strict_model)

    @property
    def first(self) -> str:
        """The true name of the model that answers requests that name none."""
        return next(iter(self.rerankers))

    def choose(self, name: str | None) -> tuple[str, Reranker]:
        """The true name and the Reranker for a client's `name`. Raises Refusal that lists the models for an unknown name."""
        true_name = self.first if name is None else self._sole_name or self._names.get(name)
        if true_name is None:
            raise Refusal("model", f"no model {name!r:.200} is served; expected one of {', '.join(map(repr, self._public_names))}")
        return true_name, self.rerankers[true_name]

    def close(self) -> None:
        """Closes all models."""
        for reranker in self.rerankers.values():
            reranker.close()

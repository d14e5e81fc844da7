"""Fallback: the order given, where a reranking fails or misses its deadline and the caller of an adapter asked for that."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, Self, get_args

from resift.errors import InputError, ResiftError

if TYPE_CHECKING:
    from types import TracebackType

    from resift.ranking import Ranking

OnError = Literal["raise", "keep_order"]
ON_ERROR: tuple[OnError, ...] = get_args(OnError)
RERANK_ERROR = "rerank_error"
"""The key of a document's metadata that says why the documents were not reranked."""

log = logging.getLogger(__name__)
_logged: set[str] = set()


class Fallback:
    """Suppresses an error of its block with `on_error` "keep_order", and says in `reason` why the order given is kept.

        with Fallback(on_error) as fallback:
            ranking = reranker.rerank(query, texts)
            if fallback.accepts(ranking):
                return ...
        return ...  # as they were given, with fallback.reason in their metadata

    What is wrong with the arguments of a call, a TypeError or an InputError, is raised whatever `on_error` says. Each kind of
    reason is logged once in a process.
    """

    def __init__(self, on_error: OnError) -> None:
        self._keeps_order = on_error == "keep_order"
        self.reason = ""

    def accepts(self, ranking: Ranking) -> bool:
        """False if the order given is to be kept because a deadline passed before some document of the ranking was scored."""
        if not self._keeps_order or all(result.scored_by is not None for result in ranking):
            return True
        self._keep("deadline", "the budget_ms passed before all documents to be returned were scored")
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if not self._keeps_order or not isinstance(error, ResiftError) or isinstance(error, InputError):
            return False
        self._keep(type(error).__name__, str(error))
        return True

    def _keep(self, kind: str, message: str) -> None:
        self.reason = f"{kind}: {message}"
        if kind not in _logged:
            _logged.add(kind)
            log.warning("documents are not reranked, but stay in the order given (%s); this is logged once", self.reason)


def check_on_error(on_error: object) -> None:
    """Raises TypeError and InputError unless `on_error` is one of ON_ERROR."""
    if not isinstance(on_error, str):
        raise TypeError(f"on_error is {type(on_error).__name__}; expected a str")
    if on_error not in ON_ERROR:
        raise InputError(f"on_error is {on_error!r:.80}; expected one of {', '.join(ON_ERROR)}")

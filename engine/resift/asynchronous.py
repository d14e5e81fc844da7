"""The methods of a Reranker for asyncio, and how all of its methods read their arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resift.inputs import check_count, deadline_after, read_candidates, read_pairs, read_pools, runs
from resift.ranking import rank

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from resift.artifact.resolved_plans import Plans, ResolvedPlan
    from resift.documents import Document
    from resift.inputs import Candidates
    from resift.plans import Plan
    from resift.ranking import Ranking
    from resift.scheduling.call import Call
    from resift.scheduling.submission import Submission
    from resift.settings import ResolvedSettings


class AsyncMethods:
    """The methods of a Reranker for asyncio: none blocks the event loop."""

    resolved: ResolvedSettings
    _calls: Submission
    _plans: Plans

    async def aencode(  # noqa: PLR0913 - what `submit` takes
        self,
        query: str,
        documents: Sequence[Document],
        *,
        document_tokens: int | None = None,
        plan: Plan | str | None = None,
        top_k: int | None = None,
        budget_ms: float | None = None,
        instruction: str | None = None,
    ) -> Call:
        """The first half of `submit`, for asyncio: tokenizes on a background thread; cancelling it stops that.

        `document_tokens`: most tokens of a document; None: what the model takes. The result is for `submit_encoded`; its numbers of
        tokens can be looked at before. Other arguments: as for `submit`; the time counts from this call. Raises like `submit`.
        """
        limit = check_count("document_tokens", document_tokens)
        terms = self._terms(plan, top_k, budget_ms)
        return await self._calls.aencode([self._read(query, documents, instruction)], *terms, document_tokens=limit)

    async def arerank(  # noqa: PLR0913 - the options of a call, by name
        self,
        query: str,
        documents: Sequence[Document],
        top_k: int | None = None,
        *,
        plan: Plan | str | None = None,
        budget_ms: float | None = None,
        instruction: str | None = None,
    ) -> Ranking:
        """`rerank` for asyncio, without blocking the event loop; cancelling it drops the pairs that have not started."""
        terms = self._terms(plan, top_k, budget_ms)
        pool = self._read(query, documents, instruction)
        return rank([pool], await self._calls.await_all([[pool]], *terms), top_k)[0]

    async def arerank_many(  # noqa: PLR0913 - the options of a call, by name
        self,
        queries: Sequence[str],
        pools: Sequence[Sequence[Document]],
        top_k: int | None = None,
        *,
        plan: Plan | str | None = None,
        budget_ms: float | None = None,
        instruction: str | None = None,
    ) -> list[Ranking]:
        """`rerank_many` for asyncio."""
        terms = self._terms(plan, top_k, budget_ms)
        work = read_pools(queries, pools, self.resolved.document_template, instruction)
        return rank(work, await self._calls.await_all([[pool] for pool in work], *terms), top_k)

    async def ascore(self, query: str, documents: Sequence[Document], *, instruction: str | None = None) -> NDArray[np.float32]:
        """`score` for asyncio."""
        return (await self._calls.await_all([[self._read(query, documents, instruction)]], self._plans.full))[0].scores

    async def ascore_pairs(self, pairs: Iterable[tuple[str, Document]], *, instruction: str | None = None) -> NDArray[np.float32]:
        """`score_pairs` for asyncio."""
        pools = runs(read_pairs(pairs, self.resolved.document_template), instruction)
        return (await self._calls.await_all([pools], self._plans.full))[0].scores

    def _read(self, query: str, documents: Sequence[Document], instruction: str | None) -> Candidates:
        return read_candidates(query, documents, self.resolved.document_template, instruction)

    def _terms(self, plan: Plan | str | None, top_k: int | None, budget_ms: float | None) -> tuple[ResolvedPlan, float | None]:
        """The plan of a call that begins now, and its deadline by time.monotonic."""
        deadline = None if budget_ms is None else deadline_after(budget_ms)
        return self._plans.choose(plan, top_k=check_count("top_k", top_k), is_timed=deadline is not None), deadline

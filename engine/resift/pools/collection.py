"""Whole collections: rankings for any number of pools, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from resift.calibration import check_threshold
from resift.inputs import check_count
from resift.ranking import Ranking

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future

    from resift.plans import Plan
    from resift.pools.reading import CandidatePool
    from resift.ranking import Scored
    from resift.reranker import Reranker

WINDOW_PAIRS = 512
"""Pairs submitted ahead of the oldest ranking not yet yielded: enough to fill batches of one length, few enough to bound memory."""
WINDOW_CHARACTERS = 2_000_000
"""Maximum number of characters of text in memory at once, unless one pool is longer."""


def rerank_pools(  # noqa: PLR0913 - the options of a call, by name
    reranker: Reranker,
    pools: Iterable[CandidatePool],
    *,
    top_k: int | None = None,
    plan: Plan | str | None = None,
    instruction: str | None = None,
    threshold: float | None = None,
) -> Iterator[tuple[CandidatePool, Ranking]]:
    """Yields each pool with its Ranking, in order. Only as many pools are in memory at once as batch well together.

    An error raised by `pools` is raised after the pools before it have been yielded. Raises like `Reranker.rerank`.
    """
    top_k = check_count("top_k", top_k)
    check_threshold(threshold, is_calibrated=reranker.settings.calibration is not None)
    for pool, scored in score_pools(reranker, pools, top_k=top_k, plan=plan, instruction=instruction):
        yield pool, Ranking.of(pool.documents, scored, top_k=top_k, threshold=threshold)


def score_pools(
    reranker: Reranker,
    pools: Iterable[CandidatePool],
    *,
    top_k: int | None = None,
    plan: Plan | str | None = None,
    instruction: str | None = None,
) -> Iterator[tuple[CandidatePool, Scored]]:
    """Like `rerank_pools`, but yields each pool with its Scored, the result of `Reranker.submit`, instead of the Ranking."""
    source, failure, more = iter(pools), None, True
    window: deque[tuple[CandidatePool, Future[Scored], int]] = deque()
    pairs = characters = 0
    try:
        while more or window:
            try:
                if more:
                    pool = next(source)
                    size = sum(map(len, pool.documents))
                    answer = reranker.submit(pool.query, pool.documents, plan=plan, top_k=top_k, instruction=instruction)
                    window.append((pool, answer, size))
                    pairs, characters = pairs + len(pool.documents), characters + size
            except StopIteration:
                more = False
            except Exception as error:  # noqa: BLE001 - raised again after the pools before it
                more, failure = False, error
            while window and (not more or pairs >= WINDOW_PAIRS or characters >= WINDOW_CHARACTERS):
                pool, answer, size = window[0]
                scored = answer.result()
                window.popleft()
                pairs, characters = pairs - len(pool.documents), characters - size
                yield pool, scored
        if failure is not None:
            raise failure
    finally:
        for _, answer, _ in window:
            answer.cancel()

"""Service: makes a RankingResult from a RankingRequest with a Reranker. It needs the event loop, but no HTTP."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import numpy as np

from resift.errors import ArtifactError, ClosedError, InferenceError, InputError, OverloadedError, ResiftError
from resift.plans import Plan, Stage
from resift.ranking import Ranking, decreasing
from resift.scoring import activate
from resift.serve.admission import OVERLOADED, STOPPING, Admission, retry_after
from resift.serve.limits import ClientDisconnected
from resift.serve.metrics import Metrics
from resift.serve.request import RankingResult, Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from resift.ranking import Scored
    from resift.reranker import Reranker
    from resift.scheduling.call import Call
    from resift.serve.config import Config
    from resift.serve.models import Models
    from resift.serve.request import RankingRequest

WARM_UP = (8, 64, 512)
"""Words of the documents scored before the server is ready."""


class Service:
    """The models, with the admission and the metrics of requests to them."""

    def __init__(self, config: Config, models: Models) -> None:
        self.config = config
        self.models = models
        self.admission = Admission(config)
        self.metrics = Metrics(models, self.admission)
        self.is_warm = False
        """whether every model has run"""
        self._shutdown = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.is_warm and not self.admission.is_stopping

    async def warm_up(self) -> None:
        """Runs every graph of calls without a plan once, on short and long texts.

        The first batches allocate memory, and the times of batches predict those of later ones.
        """
        documents = ["warm " * words for words in WARM_UP]
        for reranker in self.models.rerankers.values():
            for graph in {reranker.graph.name, *(graph.name for graph in reranker.plan_for(top_k=1).graphs)}:
                await reranker.arerank("warm up", documents, plan=Plan([Stage(graph)]))
        self.is_warm = True

    def stop(self) -> None:
        """Refuses all requests from now on; accepted requests go on."""
        self.admission.is_stopping = True

    def end(self) -> None:
        """Refuses the requests in progress, too: their time to finish is over."""
        self._shutdown.set()

    async def answer(
        self, request: RankingRequest, request_id: str, wait_for_disconnect: Callable[[], Awaitable[None]]
    ) -> RankingResult:
        """Ranks the request's documents. Once `wait_for_disconnect` returns, the rows that have not begun are dropped.

        Raises Refusal and ClientDisconnected.
        """
        name, reranker = self.models.choose(request.model)
        work = asyncio.ensure_future(self._rank(name, reranker, request, request_id))
        disconnect, shutdown = asyncio.ensure_future(wait_for_disconnect()), asyncio.ensure_future(self._shutdown.wait())
        tasks = (work, disconnect, shutdown)
        try:
            await asyncio.wait(tasks, timeout=self.config.request_seconds, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if disconnect.done():
                raise ClientDisconnected
            if shutdown.done():
                raise Refusal("stopping", STOPPING, retry_after=1)
            message = f"{OVERLOADED}: no answer within {self.config.request_seconds:g} seconds; try again later"
            raise Refusal("late", message, retry_after=retry_after(reranker.queued.seconds))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _rank(self, name: str, reranker: Reranker, request: RankingRequest, request_id: str) -> RankingResult:
        began = time.perf_counter()
        call = await self._encode(reranker, request)
        tokenized = time.perf_counter()
        if not request.truncate:
            check_uncut(call, reranker.resolved.max_length)
        self.admission.check_tokens(call.tokens)
        scored = await self._score(reranker, call)
        ended = time.perf_counter()
        self.metrics.count_result(scored, tokenized - began)
        top = None if request.top_n is None else min(request.top_n, len(request.documents))
        ranking = Ranking.of(request.documents, scored, top_k=top)
        logits = [result.logit for result in ranking if result.score is not None and result.logit is not None]
        rest: list[float | None] = [None] * (len(ranking) - len(logits))
        return RankingResult(
            id=request_id,
            model=name,
            ranking=ranking,
            relevance=decreasing([*activate(np.array(logits, np.float32), "sigmoid").tolist(), *rest], minimum=0.0),
            logits=decreasing([*logits, *rest]),
            tokens=int(scored.lengths.sum()),
            documents_cut=int((scored.tokens_cut > 0).sum()),
            tokenize_seconds=tokenized - began,
            queue_seconds=scored.waited,
            run_seconds=max(0.0, ended - tokenized - scored.waited),
        )

    async def _encode(self, reranker: Reranker, request: RankingRequest) -> Call:
        with self.admission.text(request, reranker.queued.seconds):
            try:
                return await reranker.aencode(
                    request.query,
                    request.documents,
                    document_tokens=request.document_tokens,
                    top_k=request.top_n,
                    plan=request.plan,
                    budget_ms=request.budget_ms,
                )
            except InputError as error:
                raise Refusal("invalid", str(error)) from error
            except ClosedError as error:
                raise Refusal("stopping", STOPPING) from error
            except ArtifactError as error:
                raise Refusal("tokenizer", str(error)) from error
            except InferenceError as error:
                raise Refusal("failed", str(error)) from error

    async def _score(self, reranker: Reranker, call: Call) -> Scored:
        try:
            return await asyncio.wrap_future(reranker.submit_encoded(call))
        except OverloadedError as error:
            raise Refusal("busy", f"{OVERLOADED}: {error}", retry_after=retry_after(reranker.queued.seconds)) from error
        except ClosedError as error:
            raise Refusal("stopping", STOPPING) from error
        except ResiftError as error:
            raise Refusal("failed", str(error)) from error


def check_uncut(call: Call, max_length: int) -> None:
    """Raises Refusal, in the words of text-embeddings-inference, if any pair was too long and was cut."""
    cut = call.tokens_cut + call.query_tokens_cut
    if cut.any():
        longest = int((call.lengths + cut).max())
        raise Refusal("length", f"Input validation error: `inputs` must have less than {max_length} tokens. Given: {longest}")

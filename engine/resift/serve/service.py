"""Service: from a Request to an Answer, by way of a Reranker. Everything that needs the event loop and no HTTP."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import numpy as np

from resift.errors import ArtifactError, ClosedError, InputError, OverloadedError, ResiftError
from resift.plans import Plan, Stage
from resift.ranking import Ranking, decreasing
from resift.scoring import activate
from resift.serve.admission import OVERLOADED, STOPPING, Admission, retry_after
from resift.serve.limits import Disconnected
from resift.serve.metrics import Metrics
from resift.serve.request import Answer, Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from resift.ranking import Scored
    from resift.reranker import Reranker
    from resift.scheduling.call import Call
    from resift.serve.config import Config
    from resift.serve.models import Models
    from resift.serve.request import Request

WARM_UP = (8, 64, 512)
"""Words of the documents scored before the server is ready."""


class Service:
    """The models and what is counted about them."""

    def __init__(self, config: Config, models: Models) -> None:
        self.config = config
        self.models = models
        self.admission = Admission(config)
        self.metrics = Metrics(models, self.admission)
        self.warm = False
        """whether every model has run"""
        self._ended = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.warm and not self.admission.stopping

    async def warm_up(self) -> None:
        """Runs every graph that calls without a plan use once on short and long texts.

        The first batches allocate memory, and those that ran predict the next.
        """
        documents = ["warm " * words for words in WARM_UP]
        for reranker in self.models.rerankers.values():
            for graph in {reranker.graph.name, *(graph.name for graph in reranker.plan_for(top_k=1).graphs)}:
                await reranker.arerank("warm up", documents, plan=Plan([Stage(graph)]))
        self.warm = True

    def stop(self) -> None:
        """Refuses all requests from now on; those accepted go on."""
        self.admission.stopping = True

    def end(self) -> None:
        """Refuses the requests in progress, too: the time to finish is over."""
        self._ended.set()

    async def answer(self, request: Request, request_id: str, gone: Callable[[], Awaitable[None]]) -> Answer:
        """Ranks the request's documents. `gone` waits until the client goes away, which drops the rows that have not begun.

        Raises Refusal and Disconnected.
        """
        name, reranker = self.models.choose(request.model)
        work = asyncio.ensure_future(self._rank(name, reranker, request, request_id))
        leave, ended = asyncio.ensure_future(gone()), asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({work, leave, ended}, timeout=self.config.request_seconds, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if leave.done():
                raise Disconnected
            if ended.done():
                raise Refusal("stopping", STOPPING, retry_after=1)
            message = f"{OVERLOADED}: no answer within {self.config.request_seconds:g} seconds; try again later"
            raise Refusal("late", message, retry_after=retry_after(reranker.queued.seconds))
        finally:
            for task in (work, leave, ended):
                task.cancel()
            await asyncio.gather(work, leave, ended, return_exceptions=True)

    async def _rank(self, name: str, reranker: Reranker, request: Request, request_id: str) -> Answer:
        began = time.perf_counter()
        encoded = await self._encode(reranker, request)
        tokenized = time.perf_counter()
        if not request.truncate:
            check_uncut(encoded, reranker.resolved.max_length)
        self.admission.check_tokens(encoded.tokens)
        scored = await self._score(reranker, encoded)
        ended = time.perf_counter()
        self.metrics.scored(scored, tokenized - began)
        top = None if request.top_n is None else min(request.top_n, len(request.documents))
        ranking = Ranking.of(request.documents, scored, top_k=top)
        logits = [result.logit for result in ranking if result.score is not None and result.logit is not None]
        rest: list[float | None] = [None] * (len(ranking) - len(logits))
        return Answer(
            id=request_id,
            model=name,
            ranking=ranking,
            relevance=decreasing([*activate(np.array(logits, np.float32), "sigmoid").tolist(), *rest], minimum=0.0),
            logits=decreasing([*logits, *rest]),
            tokens=int(scored.lengths.sum()),
            cut=int((scored.tokens_cut > 0).sum()),
            tokenized=tokenized - began,
            waited=scored.waited,
            ran=max(0.0, ended - tokenized - scored.waited),
        )

    async def _encode(self, reranker: Reranker, request: Request) -> Call:
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

    async def _score(self, reranker: Reranker, encoded: Call) -> Scored:
        try:
            return await asyncio.wrap_future(reranker.submit_encoded(encoded))
        except OverloadedError as error:
            raise Refusal("busy", f"{OVERLOADED}: {error}", retry_after=retry_after(reranker.queued.seconds)) from error
        except ClosedError as error:
            raise Refusal("stopping", STOPPING) from error
        except ResiftError as error:
            raise Refusal("failed", str(error)) from error


def check_uncut(encoded: Call, max_length: int) -> None:
    """Raises Refusal, in the words of text-embeddings-inference, if any pair was too long and was cut."""
    cut = encoded.tokens_cut + encoded.query_tokens_cut
    if cut.any():
        longest = int((encoded.lengths + cut).max())
        raise Refusal("length", f"Input validation error: `inputs` must have less than {max_length} tokens. Given: {longest}")

"""Service: makes RankingResults from RankingRequests with a Reranker. It needs the event loop, but no HTTP."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import numpy as np

from resift.documents import DEFAULT, DocumentTemplate
from resift.errors import ArtifactError, ClosedError, InputError, OverloadedError, ProviderError, ResiftError
from resift.plans import Plan, Stage
from resift.ranking import Ranking, decreasing
from resift.scoring import activate
from resift.serve.admission import OVERLOADED, STOPPING, Admission, retry_after
from resift.serve.keys import Keys
from resift.serve.limits import ClientDisconnected
from resift.serve.metrics import Metrics
from resift.serve.request import RankingResult, Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from concurrent.futures import Future

    from resift.ranking import Scored
    from resift.reranker import Reranker
    from resift.scheduling.call import Call
    from resift.serve.config import Config
    from resift.serve.models import Models
    from resift.serve.request import RankingRequest

WARM_UP = (8, 64, 512)
"""Words of the documents scored before the server is ready."""
UNCALIBRATED = (
    "`threshold` is a probability, and this server has no calibration to compute any; "
    "expected no threshold, or a server with --settings FILE that `resift calibrate` wrote"
)
IN_LOG = "the server's log has the cause under this request's id"


class Service:
    """The models, with the admission and the metrics of requests to them."""

    def __init__(self, config: Config, models: Models) -> None:
        self.config = config
        self.models = models
        settings = config.engine()
        template = settings.document_template
        self.template = DEFAULT if template == "auto" else DocumentTemplate.parse(template)
        """what is read of documents that are objects"""
        self._gives_logits = settings.scores == "logit"
        self.keys = Keys(config)
        self.admission = Admission(config)
        self.metrics = Metrics(models, self.admission)
        self.is_warm = False
        """whether every model has run"""
        self.has_ended = False
        """whether the time of the accepted requests is over"""
        self.unanswered = 0
        """the number of accepted requests that were given up because the server ended"""
        self._limits: set[asyncio.Timeout] = set()

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
        self.has_ended = True
        for limit in self._limits:
            if not limit.expired():  # by an earlier call, which its request has yet to notice
                limit.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def accept(self) -> AsyncIterator[None]:
        """A request in progress. Raises Refusal if it is not accepted, or when `end` ends it."""
        with self.admission.request():
            try:
                async with asyncio.timeout(None) as limit:
                    self._limits.add(limit)
                    yield
            except TimeoutError as error:
                if not limit.expired():
                    raise
                self.unanswered += 1
                raise Refusal("stopping", STOPPING, retry_after=1) from error
            except asyncio.CancelledError:  # the server does not wait for it any longer
                self.unanswered += 1
                raise
            finally:
                self._limits.discard(limit)

    async def answer(
        self,
        requests: Sequence[RankingRequest],
        request_id: str,
        wait_for_disconnect: Callable[[], Awaitable[None]],
        *,
        holder: str = "",
    ) -> list[RankingResult]:
        """Ranks the documents of each of a body's requests. `holder`: that of the key, whose document cache is used.

        Once `wait_for_disconnect` returns, the rows that have not begun are dropped. Raises Refusal and ClientDisconnected.
        """
        name, reranker = self.models.choose(requests[0].model)
        owner = "" if self.config.shared_document_cache else holder
        work = asyncio.ensure_future(self._rank(name, reranker, requests, request_id, owner))
        disconnect = asyncio.ensure_future(wait_for_disconnect())
        tasks = (work, disconnect)
        try:
            await asyncio.wait(tasks, timeout=self.config.request_seconds, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if disconnect.done():
                raise ClientDisconnected
            message = f"{OVERLOADED}: no answer within {self.config.request_seconds:g} seconds; try again later"
            raise Refusal("late", message, retry_after=retry_after(reranker.queued.seconds))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _rank(
        self, name: str, reranker: Reranker, requests: Sequence[RankingRequest], request_id: str, states_owner: str
    ) -> list[RankingResult]:
        began = time.perf_counter()
        with self.admission.text(requests, reranker.queued.seconds):
            calls = [await _encode(reranker, request) for request in requests]
        for call in calls:
            call.states_owner = states_owner
        tokenized = time.perf_counter()
        for request, call in zip(requests, calls, strict=True):
            if not request.truncate:
                check_uncut(call, reranker.resolved.max_length)
        self.admission.check_tokens(sum(call.tokens for call in calls))
        outcomes = await _score(reranker, calls)
        ended = time.perf_counter()
        waited = max(scored.waited for scored in outcomes)
        answers = []
        for request, scored in zip(requests, outcomes, strict=True):
            self.metrics.count_result(name, scored, tokenized - began)
            top = None if request.top_n is None else min(request.top_n, len(request.documents))
            ranking = Ranking.of(request.documents, scored, top_k=top, threshold=request.threshold)
            logits, relevance = self._scales(ranking)
            answers.append(
                RankingResult(
                    id=request_id,
                    model=name,
                    ranking=ranking,
                    relevance=relevance,
                    logits=logits,
                    tokens=int(scored.lengths.sum()),
                    documents_cut=int((scored.tokens_cut > 0).sum()),
                    tokenize_seconds=tokenized - began,
                    queue_seconds=waited,
                    run_seconds=max(0.0, ended - tokenized - waited),
                )
            )
        self.metrics.count_answer(name, ended - began)
        return answers

    def _scales(self, ranking: Ranking) -> tuple[list[float], list[float]]:
        """For each result, its logit and its relevance on the scale that the server is set to."""
        scored = [result.logit for result in ranking if result.score is not None and result.logit is not None]
        rest: list[float | None] = [None] * (len(ranking) - len(scored))
        logits = decreasing([*scored, *rest])
        if self._gives_logits:
            return logits, logits
        return logits, decreasing([*activate(np.array(scored, np.float32), "sigmoid").tolist(), *rest], minimum=0.0)


async def _encode(reranker: Reranker, request: RankingRequest) -> Call:
    if request.threshold is not None and reranker.resolved.calibration is None:
        raise Refusal("invalid", UNCALIBRATED)
    try:
        return await reranker.aencode(
            request.query,
            request.documents,
            document_tokens=request.document_tokens,
            top_k=request.top_n,
            plan=request.plan,
            budget_ms=request.budget_ms,
            instruction=request.instruction,
        )
    except InputError as error:
        raise Refusal("invalid", str(error)) from error
    except ResiftError as error:
        raise _fault(error) from error


async def _score(reranker: Reranker, calls: Sequence[Call]) -> list[Scored]:
    futures: list[Future[Scored]] = []
    try:
        for call in calls:
            futures.append(reranker.submit_encoded(call))  # noqa: PERF401 - if one raises, those before it are cancelled
        return await asyncio.gather(*map(asyncio.wrap_future, futures))
    except OverloadedError as error:
        raise Refusal("busy", f"{OVERLOADED}: {error}", retry_after=retry_after(reranker.queued.seconds)) from error
    except ResiftError as error:
        raise _fault(error) from error
    finally:
        for future in futures:
            future.cancel()


def _fault(error: ResiftError) -> Refusal:
    """The refusal for a fault of the server: what a client is told names no file of this machine."""
    if isinstance(error, ClosedError):
        return Refusal("stopping", STOPPING)
    if isinstance(error, ArtifactError | ProviderError):
        return Refusal("artifact", f"the model cannot be used, because its files are damaged or gone; {IN_LOG}")
    return Refusal("failed", f"the model failed; {IN_LOG}")


def check_uncut(call: Call, max_length: int) -> None:
    """Raises Refusal, in the words of text-embeddings-inference, if any pair was too long and was cut."""
    cut = call.tokens_cut + call.query_tokens_cut
    if cut.any():
        longest = int((call.lengths + cut).max())
        raise Refusal("length", f"Input validation error: `inputs` must have less than {max_length} tokens. Given: {longest}")

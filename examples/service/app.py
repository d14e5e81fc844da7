"""A search service over a folder of Markdown files: BM25 finds passages, and resift ranks them within a time budget.

    pip install -r examples/service/requirements.txt
    uvicorn --app-dir examples/service app:app --port 8787
    curl 'http://127.0.0.1:8787/search?query=can+I+use+dish+soap+on+cast+iron&limit=2'

The environment variable CORPUS names another folder, and /docs has the API's description.
"""
# Without `from __future__ import annotations`: FastAPI reads the annotations.

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import bm25s
import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from resift import OverloadedError, Reranker, Settings

CORPUS = Path(os.environ.get("CORPUS", Path(__file__).parents[1] / "rag" / "corpus"))
CANDIDATES = 30
"""Passages that BM25 finds, and that are ranked."""
BUDGET_MS = 500
"""Time for ranking a request's passages; those for which it did not suffice follow in the order of a quicker look, or of BM25."""
WAITING_SECONDS = 2
"""A request that would wait for longer is refused."""


class Passage(BaseModel):
    """A section of a file."""

    source: str
    """name of the file"""
    text: str


class Hit(Passage):
    """A passage that was found."""

    score: float | None
    """None: the time did not suffice to read it in full"""


class Answer(BaseModel):
    """What /search returns: the best passages, best first."""

    query: str
    hits: list[Hit]


class Index:
    """Passages, and BM25 over their words."""

    def __init__(self, passages: list[Passage]) -> None:
        self.passages = passages
        self._bm25 = bm25s.BM25()
        self._bm25.index(bm25s.tokenize([passage.text for passage in passages], show_progress=False), show_progress=False)

    def find(self, query: str, count: int) -> list[Passage]:
        """At most `count` passages that share a word with the query, best first."""
        (words,) = bm25s.tokenize(query, return_ids=False, show_progress=False)
        scores = self._bm25.get_scores_from_ids(self._bm25.get_tokens_ids(words))
        best = np.argsort(-scores, kind="stable")[:count]
        return [self.passages[place] for place in best[scores[best] > 0].tolist()]


def read_passages(folder: Path) -> list[Passage]:
    """The sections of all Markdown files of a folder, each with the title of its file."""
    found = []
    for path in sorted(folder.glob("*.md")):
        head, *sections = re.split(r"(?m)^## ", path.read_text(encoding="utf-8"))
        title = head.partition("\n")[0].removeprefix("# ")
        found += [Passage(source=path.name, text=f"{title}: {section.strip()}") for section in sections]
    if not found:
        raise SystemExit(f"{folder} has no Markdown file with a section; expected files with headings such as ## Care")
    return found


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Reads the passages and loads the model, once for all requests."""
    app.state.index = Index(read_passages(CORPUS))
    with Reranker.load(settings=Settings(waiting_seconds=WAITING_SECONDS)) as app.state.reranker:
        yield


app = FastAPI(title="Search", lifespan=lifespan)


@app.get("/search")
async def search(
    request: Request,
    query: Annotated[str, Query(min_length=1, max_length=1000)],
    limit: Annotated[int, Query(ge=1, le=CANDIDATES)] = 5,
) -> Answer:
    """The passages that answer the query best. A client that goes away stops the work for its request."""
    candidates = request.app.state.index.find(query, CANDIDATES)
    texts = [passage.text for passage in candidates]
    ranking = await request.app.state.reranker.arerank(query, texts, limit, budget_ms=BUDGET_MS)
    hits = [Hit(**candidates[result.index].model_dump(), score=result.score) for result in ranking]
    return Answer(query=query, hits=hits)


@app.get("/ready")
async def ready() -> dict[str, int]:
    """How many passages there are, once requests are answered."""
    return {"passages": len(app.state.index.passages)}


@app.exception_handler(OverloadedError)
async def refuse(_: Request, error: OverloadedError) -> JSONResponse:
    """Too much is waiting: the client may come again."""
    return JSONResponse({"detail": str(error)}, status_code=429, headers={"Retry-After": "1"})

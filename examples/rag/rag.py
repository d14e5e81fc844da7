"""Retrieval-augmented generation over a folder of Markdown files, with reranking between retrieval and the prompt.

    python examples/rag/rag.py "can I use dish soap on cast iron?"

Files -> chunks -> vectors in LanceDB, and BM25 -> reciprocal rank fusion -> resift -> prompt -> answer. One function does one step.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections import Counter
from contextlib import contextmanager
from datetime import timedelta
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import bm25s
import numpy as np
from filelock import FileLock

from chunks import Chunk, read_corpus
from embedder import Embedder
from resift import Reranker
from resift.errors import ResiftError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

HERE = Path(__file__).parent
DEPTH = 30
"""Chunks that each retriever returns, and that are reranked."""
TOP = 5
"""Chunks in the prompt."""
RRF = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher 2009, doi:10.1145/1571941.1572114)."""
TIMEOUT = 300
"""Seconds to wait for the answer."""


# Chunks -> index


def open_index(folder: Path, chunks: Sequence[Chunk], embedder: Embedder) -> Any:
    """The LanceDB table in `folder` that holds the vector of every chunk, brought up to date first if the corpus has changed.

    Only texts that the table lacks are embedded. The new rows replace the old in one commit: an interrupted run leaves the table as
    it was, and a run that reads it meanwhile goes on with the rows it opened. The lock makes a second run wait instead of
    embedding the same texts.
    """
    import lancedb
    import pyarrow as pa

    schema = pa.schema({"position": pa.int32(), "text": pa.string(), "vector": pa.list_(pa.float32(), embedder.width)})
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        table = lancedb.connect(folder).create_table(embedder.name, schema=schema, exist_ok=True)
        stored = table.to_arrow().sort_by("position")
        texts = [chunk.text for chunk in chunks]
        if stored["text"].to_pylist() != texts:
            vectors = dict(zip(stored["text"].to_pylist(), stored["vector"].to_pylist(), strict=True))
            new = [text for text in dict.fromkeys(texts) if text not in vectors]
            print(f"embedding {len(new)} chunks, {len(texts)} in all", file=sys.stderr)
            vectors |= zip(new, embedder.embed(new).tolist(), strict=True)
            rows = {"position": range(len(texts)), "text": texts, "vector": [vectors[text] for text in texts]}
            table.add(pa.table({name: list(column) for name, column in rows.items()}, schema=schema), mode="overwrite")
            table.optimize(cleanup_older_than=timedelta(hours=1))  # what no run still reads
    return table


# Question -> chunks


class Retriever:
    """Finds chunks for a question; each method returns positions in `chunks`, best first."""

    def __init__(self, chunks: Sequence[Chunk], index: Any, embedder: Embedder) -> None:
        self.chunks = chunks
        self._index = index
        self._embedder = embedder
        self._bm25 = bm25s.BM25()
        tokens = bm25s.tokenize([chunk.text for chunk in chunks], show_progress=False)
        self._has_words = bool(tokens.vocab)  # bm25s cannot index a corpus of stop words alone
        if self._has_words:
            self._bm25.index(tokens, show_progress=False)

    def dense(self, question: str, depth: int = DEPTH) -> list[int]:
        """By cosine similarity of embeddings. LanceDB compares with every vector: from some 100,000 on, create_index pays."""
        (vector,) = self._embedder.embed([question])
        found = self._index.search(vector).distance_type("cosine").limit(depth).select(["position", "_distance"]).to_arrow()
        return found["position"].to_pylist()

    def lexical(self, question: str, depth: int = DEPTH) -> list[int]:
        """By BM25; only chunks that share a word with the question."""
        if not self._has_words:
            return []
        (words,) = bm25s.tokenize(question, return_ids=False, show_progress=False)
        scores = self._bm25.get_scores_from_ids(self._bm25.get_tokens_ids(words))
        best = np.argsort(-scores, kind="stable")[:depth]
        return best[scores[best] > 0].tolist()

    def hybrid(self, question: str, depth: int = DEPTH) -> list[int]:
        """By both, fused."""
        return fuse([self.dense(question, depth), self.lexical(question, depth)])[:depth]


def fuse(rankings: Iterable[Sequence[int]]) -> list[int]:
    """Reciprocal rank fusion: each ranking gives 1 / (RRF + rank) to what it holds; highest sum first."""
    sums = Counter[int]()
    for ranking in rankings:
        for rank, position in enumerate(ranking, 1):
            sums[position] += 1 / (RRF + rank)
    return [position for position, _ in sums.most_common()]


def rerank(
    reranker: Reranker, question: str, chunks: Sequence[Chunk], positions: Sequence[int], top: int | None = None
) -> list[int]:
    """The best `top` of `positions` (None: all) by what the reranker reads in question and chunk together."""
    ranking = reranker.rerank(question, [chunks[position].text for position in positions], top_k=top)
    return [positions[result.index] for result in ranking]


# Chunks -> answer


def make_prompt(question: str, chunks: Sequence[Chunk]) -> str:
    """What the language model is asked."""
    sources = "\n\n".join(f"[{number}] {chunk.section}\n{chunk.text}" for number, chunk in enumerate(chunks, 1))
    return (
        "Answer the question from the sources below and from nothing else. Name the sources that you used, such as [2]. "
        f"If they do not hold the answer, say so.\n\nSources:\n\n{sources}\n\nQuestion: {question}"
    )


def ask(prompt: str, base_url: str, model: str, key: str | None) -> str:
    """The answer of an OpenAI-compatible endpoint, such as https://api.openai.com/v1 or http://localhost:11434/v1."""
    if not base_url.startswith(("http://", "https://")):
        raise SystemExit(f"OPENAI_BASE_URL is {base_url!r}; expected http://... or https://..., such as http://localhost:11434/v1")
    body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    request = Request(f"{base_url.rstrip('/')}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    if key:
        request.add_unredirected_header("Authorization", f"Bearer {key}")  # not sent on to another host
    try:
        with urlopen(request, timeout=TIMEOUT) as response:
            return read_answer(json.load(response))
    except HTTPError as error:
        reason = error.read(300).decode(errors="replace")
        raise SystemExit(f"{base_url} refused the request: {error.code} {error.reason}: {reason}") from error
    except (URLError, HTTPException, OSError) as error:
        raise SystemExit(f"{base_url} cannot be reached: {error}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise SystemExit(f"{base_url} did not answer with a chat completion: {error!r}") from error


def read_answer(completion: Any) -> str:
    """The text of a chat completion."""
    answer = completion["choices"][0]["message"]["content"]
    if not isinstance(answer, str):
        raise TypeError(f"its content is {answer!r:.80}")
    return answer


def main() -> None:
    """Answers one question, or prints the prompt if no endpoint is configured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question")
    add_folders(parser)
    parser.add_argument("--no-rerank", action="store_true", help="keep the order of the fused retrievers")
    asked = parser.parse_args()
    if not asked.question.strip():
        parser.error("the question is empty")
    if re.search(r"[\ud800-\udfff]", asked.question):  # how Python reads bytes that it cannot decode
        parser.error("the question is not text in this terminal's encoding")
    endpoint, model = os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_MODEL")
    if endpoint and not model:
        parser.error("OPENAI_BASE_URL is set and OPENAI_MODEL is not; expected the name of a model of that endpoint")
    retriever = load(asked.corpus, asked.index)
    with timed("retrieved"):
        retrieved = retriever.hybrid(asked.question)
    if asked.no_rerank:
        best = retrieved[:TOP]
    else:
        with Reranker.load() as reranker, timed(f"reranked {len(retrieved)}"):
            best = rerank(reranker, asked.question, retriever.chunks, retrieved, TOP)
    for number, position in enumerate(best, 1):
        print(f"[{number}] {retriever.chunks[position].section}, retrieved as {retrieved.index(position) + 1}", file=sys.stderr)
    prompt = make_prompt(asked.question, [retriever.chunks[position] for position in best])
    print(ask(prompt, endpoint, model, os.environ.get("OPENAI_API_KEY")) if endpoint and model else prompt)


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say where the documents and their index are."""
    parser.add_argument("--corpus", type=Path, default=HERE / "corpus", help="a folder of Markdown files (default: %(default)s)")
    parser.add_argument("--index", type=Path, default=HERE / ".index", help="where their vectors are kept (default: %(default)s)")


def load(corpus: Path, index: Path) -> Retriever:
    """The retriever over a folder of documents."""
    chunks, embedder = read_corpus(corpus), Embedder()
    try:
        table = open_index(index, chunks, embedder)
    except (RuntimeError, OSError) as error:
        raise SystemExit(
            f"the index in {index} cannot be used: {error}\nDelete the folder, and the next run builds it again."
        ) from error
    return Retriever(chunks, table, embedder)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Says on standard error how long its block took."""
    start = time.perf_counter()
    yield
    print(f"{what} in {(time.perf_counter() - start) * 1000:.0f} ms", file=sys.stderr)


def run(main: Callable[[], None]) -> None:
    """Runs a command; an error that the user can mend ends it with one line, an interruption without a word."""
    try:
        main()
    except ResiftError as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    run(main)

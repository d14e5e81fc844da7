"""data: candidate pools, split by query into training and development pools, and the random draws of each step."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from resift.errors import InputError
from resift.files.names import path_text
from resift.pools.reading import decode_object, read_lines
from resift.pools.source import read_pools
from resift.retrieval.words import key_of
from resift_export.distill.recipe import DataFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from resift.encoding.tokenizer import PairTokenizer
    from resift.pools.reading import CandidatePool
    from resift_export.distill.options import Options


@dataclass(frozen=True)
class PoolSplit:
    """The pools of a distillation."""

    train: list[CandidatePool]
    development: list[CandidatePool]
    """never trained on"""
    excluded: int
    """number of pools left out because their query is excluded"""
    unused: int
    """number of pools with fewer than two documents, and of pools in the development share that are not measured"""
    files: list[DataFile]
    exclusions: list[DataFile]
    long: int = 0
    """number of pools left out because their query is too long for a split student"""

    def without_long_queries(self, tokenizer: PairTokenizer, limit: int) -> PoolSplit:
        """The pools whose query has at most `limit` tokens, special ones before the document included.

        Raises InputError if no pools remain to train on or to measure.
        """
        train, development = (
            [pool for pool in pools if _query_tokens(tokenizer, pool.query) <= limit] for pools in (self.train, self.development)
        )
        if not (train and development):
            pools, use = (self.development, "of the development share") if train else (self.train, "to train on")
            raise InputError(
                f"all {len(pools)} queries {use} have more than the {limit} tokens of a split student's; expected shorter ones"
            )
        long = len(self.train) + len(self.development) - len(train) - len(development)
        return replace(self, train=train, development=development, long=long)


def _query_tokens(tokenizer: PairTokenizer, query: str) -> int:
    encodings = tokenizer.encode(query, [""])
    return int(encodings.query_tokens[0]) + encodings.query_tokens_cut


def read_split(data: Sequence[Path], exclude: Sequence[Path], options: Options) -> PoolSplit:
    """Reads the pools of `data` and splits them by the `hash_fraction` of their queries.

    `exclude`: files of JSON Lines with a "query", such as the pools of an evaluation; pools of those queries are left out.
    Raises InputError, which names file and line, for other content, and if no pools remain to train on or to measure.
    """
    if not data:
        raise InputError("no data given; expected one or more files of candidate pools")
    excluded_keys, exclusions = _queries(exclude)
    train: list[CandidatePool] = []
    development_by_key: dict[str, tuple[float, CandidatePool]] = {}
    excluded = unused = 0
    files = []
    texts: dict[str, str] = {}
    for path in data:
        rows = 0
        for pool in read_pools(_regular_file(path)):
            rows += 1
            key = key_of(pool.query)
            fraction = hash_fraction(key)
            if key in excluded_keys:
                excluded += 1
            elif len(pool.documents) < 2 or (fraction < options.development and key in development_by_key):
                unused += 1
            elif fraction < options.development:
                development_by_key[key] = (fraction, pool)
            else:
                # Candidates recur in many pools: memory holds each text once.
                pool.documents[:] = [texts.setdefault(text, text) for text in pool.documents]
                train.append(pool)
        files.append(DataFile(name=path_text(path.name), sha256=sha256_of(path), rows=rows))
    development = [pool for _, pool in sorted(development_by_key.values(), key=lambda item: item[0])]
    if not train:
        raise InputError(f"no pools to train on: of {len(development) + excluded + unused} none is left; expected more data")
    if not development:
        raise InputError(
            f"none of the {len(train)} pools falls in the development share of {options.development}; raise --dev or add data"
        )
    unused += len(development[options.development_pools :])
    return PoolSplit(train, development[: options.development_pools], excluded, unused, files, exclusions)


def hash_fraction(key: str) -> float:
    """The SHA-256 of a query's key as a number in [0, 1). Queries below the development share are never trained on."""
    return int.from_bytes(hashlib.sha256(key.encode(errors="surrogatepass")).digest()[:8]) / 2**64


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits. Raises InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


class Draws:
    """The training data by position: each epoch visits every pool once, in its own order, and draws some of its candidates."""

    def __init__(self, pools: Sequence[CandidatePool], candidates: int, seed: int) -> None:
        self._pools = pools
        self._candidates = candidates
        self._seed = seed
        self._epoch = -1
        self._order: list[int] = []

    def at(self, position: int) -> tuple[str, list[str]]:
        """The query and the documents of visit `position`, from 0. They depend only on the pools, seed, candidates and position."""
        epoch, index = divmod(position, len(self._pools))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(len(self._pools)))
            random.Random(f"{self._seed} order {epoch}").shuffle(self._order)  # noqa: S311 - no secret
        pool = self._pools[self._order[index]]
        generator = random.Random(f"{self._seed} draw {position}")  # noqa: S311 - no secret
        return pool.query, generator.sample(pool.documents, min(self._candidates, len(pool.documents)))


def _queries(files: Sequence[Path]) -> tuple[set[str], list[DataFile]]:
    """The keys of the queries in `files`, and the files."""
    keys: set[str] = set()
    data_files = []
    for path in files:
        query_keys = list(_keys(path))
        keys.update(query_keys)
        data_files.append(DataFile(name=path_text(path.name), sha256=sha256_of(path), rows=len(query_keys)))
    return keys, data_files


def _keys(path: Path) -> Iterator[str]:
    for number, line in read_lines(_regular_file(path)):
        where = f"{path}, line {number}"
        query = decode_object(line, where).get("query")
        if not isinstance(query, str):
            raise InputError(f'{where}: no query; expected {{"query": "...", ...}}')
        yield key_of(query)


def _regular_file(path: Path) -> Path:
    if str(path) == "-" or (path.exists() and not path.is_file()):
        raise InputError(f"{path} is not a file; expected files, as a resumed run reads them again")
    return path

"""Results: what an evaluation found, as frozen records; encoded with msgspec they are the JSON of `resift eval --json`."""

from __future__ import annotations

from typing import Literal

import msgspec


class Record(msgspec.Struct, frozen=True):
    """A frozen record; all its fields are JSON values."""


class Difference(Record, frozen=True, kw_only=True):
    """A system's mean of a measure minus the baseline's, over the same queries."""

    value: float
    low: float
    """lower end of the 95 % paired-bootstrap interval"""
    high: float
    p_value: float
    """two-sided, of the paired randomization test"""


class Latency(Record, frozen=True, kw_only=True):
    """Milliseconds a pool takes, tokenization included."""

    p50: float
    p95: float


class Agreement(Record, frozen=True, kw_only=True):
    """How far a system's ranking of the same pools agrees with the reference system's."""

    reference: str
    """name of the system compared with"""
    tau: float
    """mean Kendall tau-b"""
    worst_tau: float
    overlap: float
    """mean share of the reference's top 10 that the system has in its own"""


class Scores(Record, frozen=True, kw_only=True):
    """Histograms of a system's scores: of relevant documents, and of all others."""

    edges: list[float]
    """n + 1 edges of n bins"""
    relevant: list[int]
    other: list[int]


class System(Record, frozen=True, kw_only=True):
    """One way to order the candidates, and how good it is."""

    name: str
    """unique within the evaluation"""
    kind: Literal["given", "artifact", "checkpoint", "scores"]
    source: str | None = None
    """the artifact's, checkpoint's or file's name; None for the order given"""
    precision: str | None = None
    measures: dict[str, float]
    """means over the queries evaluated, by ir-measures' names"""
    differences: dict[str, Difference] = {}
    """minus the baseline's; empty for the baseline itself"""
    per_query: dict[str, list[float]]
    """a value for each of Evaluation.queries"""
    by_size: dict[str, list[float]] = {}
    """means when only the first Evaluation.sizes[i] candidates of each pool are ranked, by measure"""
    agreement: Agreement | None = None
    latency_ms: Latency | None = None
    pairs_per_second: float | None = None
    unscored: int = 0
    """candidates that a file of scores does not hold, which rank last, in the order given, or that a plan did not read in full"""
    scores: Scores | None = None


class Query(Record, frozen=True, kw_only=True):
    """An evaluated query."""

    qid: str
    query: str
    candidates: int
    relevant: int
    """relevant documents in the pool"""
    judged_relevant: int
    """relevant documents in all the judgements, in the pool or not"""


class Place(Record, frozen=True, kw_only=True):
    """A document in a ranking."""

    docid: str
    rank: int
    """from 1"""
    given_rank: int
    label: int
    score: float | None
    text: str
    """its beginning"""


class Regression(Record, frozen=True, kw_only=True):
    """A query that a system ranks worse than the baseline does."""

    qid: str
    query: str
    system: str
    measure: str
    baseline: float
    value: float
    before: list[Place]
    """the baseline's best documents"""
    after: list[Place]
    """the system's"""


class Lengths(Record, frozen=True, kw_only=True):
    """Tokens of pairs before they are cut, and what was cut, with the evaluated model's tokenizer."""

    edges: list[int]
    """n + 1 edges of n bins, in tokens; a bin includes its upper edge"""
    counts: list[int]
    max_length: int
    pairs: int
    pairs_cut: int
    mean_share_cut: float
    """of the cut documents' tokens, the mean share lost; 0 if none is cut"""


class Finding(Record, frozen=True, kw_only=True):
    """One thing the doctor found: the number, and what to do about it."""

    name: str
    """a short stable identifier, such as pairs-cut"""
    severity: Literal["problem", "warning", "note"]
    value: float
    """the number the finding rests on"""
    words: str
    """what was found, with its number"""
    advice: str


class Data(Record, frozen=True, kw_only=True):
    """The data evaluated."""

    name: str
    format: Literal["pools", "beir", "trec"]
    pools: int
    pairs: int
    judgements: int
    left_out: dict[str, int] = {}
    """queries not evaluated, by reason"""


class Evaluation(Record, frozen=True, kw_only=True):
    """What `evaluate` returns."""

    data: Data
    baseline: str
    """name of the system the differences are against"""
    measures: list[str]
    """ir-measures' names, the first being the one that regressions and curves are about"""
    systems: list[System]
    queries: list[Query]
    sizes: list[int]
    """pool sizes of `recall` and System.by_size"""
    recall: list[float]
    """mean share of all judged relevant documents among the first `sizes[i]` candidates as given: the ceiling of any reranker"""
    regressions: list[Regression]
    lengths: Lengths | None = None
    findings: list[Finding] = []
    machine: str
    """processor, instruction sets and threads"""
    versions: dict[str, str]
    created: str
    """ISO 8601, UTC"""

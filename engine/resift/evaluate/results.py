"""The results of an evaluation as frozen records; encoded with msgspec they are the JSON of `resift eval --json`."""

from __future__ import annotations

from typing import Literal

import msgspec


class ResultRecord(msgspec.Struct, frozen=True):
    """A frozen record; all its fields are JSON values."""


class Difference(ResultRecord, frozen=True, kw_only=True):
    """A system's mean of a measure minus the baseline's, over the same queries."""

    value: float
    low: float
    """lower end of the 95 % paired-bootstrap interval"""
    high: float
    p_value: float
    """two-sided, of the paired randomization test"""


class Latency(ResultRecord, frozen=True, kw_only=True):
    """Milliseconds per pool, tokenization included."""

    p50: float
    p95: float


class DocumentFigures(ResultRecord, frozen=True, kw_only=True):
    """What was known of the documents that a split graph read, with nothing in memory; equal ones of a pool count once."""

    prepared: int
    """documents whose states were in the store"""
    new: int
    """documents whose states were computed"""
    known_latency_ms: Latency | None
    """of the same pools, each ranked again with the states of all its documents in memory, as if they were prepared and the store
    took no time; None if there was no room for them"""


class Share(ResultRecord, frozen=True, kw_only=True):
    """A share or a mean over pairs, with the ends of its 95 % interval by a bootstrap over queries."""

    value: float
    low: float
    high: float


class ReliabilityBin(ResultRecord, frozen=True, kw_only=True):
    """The pairs whose probability is in a range."""

    low: float
    """the range includes its lower end, and the last one its upper end, too"""
    high: float
    pairs: int
    probability: float
    """mean probability"""
    relevant: Share
    """the share that is relevant, which would be that of the mean probability"""


class Reliability(ResultRecord, frozen=True, kw_only=True):
    """How well probabilities agree with the relevance of the pairs that they are of."""

    ece: Share
    """expected calibration error: the mean of |probability - share relevant| over the bins, weighted by their pairs"""
    brier: Share
    """Brier score: the mean of (probability - relevance)^2, with 1 for relevant pairs and 0 for others"""
    bins: list[ReliabilityBin]
    """ten bins of equal width, less those without pairs"""


class SystemAgreement(ResultRecord, frozen=True, kw_only=True):
    """How well a system's rankings agree with those of the reference system on the same pools."""

    reference: str
    """name of the reference system"""
    tau: float
    """mean Kendall tau-b"""
    worst_tau: float
    overlap: float
    """mean share of the reference's top 10 that is in the system's top 10, too"""


class ScoreHistograms(ResultRecord, frozen=True, kw_only=True):
    """Histograms of a system's scores, for relevant documents and for all others."""

    edges: list[float]
    """n + 1 edges of n bins"""
    relevant: list[int]
    other: list[int]


class SystemResult(ResultRecord, frozen=True, kw_only=True):
    """The figures of one way to order the candidates."""

    name: str
    """unique within the evaluation"""
    kind: Literal["given", "artifact", "checkpoint", "scores"]
    source: str | None = None
    """name of the artifact, checkpoint or file; None for the order given"""
    precision: str | None = None
    measures: dict[str, float]
    """means over the queries evaluated, by ir-measures' names"""
    differences: dict[str, Difference] = {}
    """differences from the baseline, by measure; empty for the baseline itself"""
    per_query: dict[str, list[float]]
    """by measure, a value for each of Evaluation.queries"""
    by_size: dict[str, list[float]] = {}
    """means when only the first Evaluation.sizes[i] candidates of each pool are ranked, by measure"""
    agreement: SystemAgreement | None = None
    latency_ms: Latency | None = None
    pairs_per_second: float | None = None
    documents: DocumentFigures | None = None
    """of an artifact whose plan has a split graph"""
    unscored: int = 0
    """candidates without a score: not in a file of scores (they rank last, as given), or not scored by the full model"""
    scores: ScoreHistograms | None = None
    sigmoid: Reliability | None = None
    """of an artifact: how well the sigmoid of its logits agrees with relevance, a label above 0"""
    calibrated: Reliability | None = None
    """of an artifact whose settings have a calibration: the same of its probabilities"""


class QueryResult(ResultRecord, frozen=True, kw_only=True):
    """An evaluated query."""

    qid: str
    query: str
    candidates: int
    relevant: int
    """relevant documents in the pool"""
    judged_relevant: int
    """relevant documents in all judgements, in the pool or not"""


class Place(ResultRecord, frozen=True, kw_only=True):
    """A document in a ranking."""

    docid: str
    rank: int
    """from 1"""
    given_rank: int
    """its rank in the order given"""
    label: int
    score: float | None
    text: str
    """the beginning of its text"""


class Regression(ResultRecord, frozen=True, kw_only=True):
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
    """the system's best documents"""


class PairLengths(ResultRecord, frozen=True, kw_only=True):
    """Tokens of pairs before they are cut, and how much was cut, by the evaluated model's tokenizer."""

    edges: list[int]
    """n + 1 edges of n bins, in tokens; a bin includes its upper edge"""
    counts: list[int]
    max_length: int
    pairs: int
    pairs_cut: int
    mean_share_cut: float
    """mean share of its tokens that a cut document lost; 0 if none is cut"""


class Finding(ResultRecord, frozen=True, kw_only=True):
    """One finding of the doctor: its number, and what to do about it."""

    name: str
    """a short stable identifier, such as pairs-cut"""
    severity: Literal["problem", "warning", "note"]
    value: float
    """the number that the finding is based on"""
    words: str
    """a description with the number"""
    advice: str


class Data(ResultRecord, frozen=True, kw_only=True):
    """The data of an evaluation."""

    name: str
    format: Literal["pools", "beir", "trec"]
    pools: int
    pairs: int
    judgements: int
    left_out: dict[str, int] = {}
    """queries not evaluated, by reason"""
    self_candidates: int = 0
    """queries that are documents of their own corpus, each left out of its candidates"""
    cut_at: int | None = None
    """number of candidates to which pools were cut (`--candidates`); None if none has more"""


class Evaluation(ResultRecord, frozen=True, kw_only=True):
    """All results of an evaluation, as `evaluate` returns them."""

    data: Data
    baseline: str
    """name of the system that differences are from"""
    measures: list[str]
    """ir-measures' names; regressions and curves use the first"""
    systems: list[SystemResult]
    queries: list[QueryResult]
    sizes: list[int]
    """pool sizes of `recall` and SystemResult.by_size"""
    recall: list[float]
    """mean share of all relevant documents that is among the first `sizes[i]` candidates as given: the ceiling of any reranker"""
    regressions: list[Regression]
    lengths: PairLengths | None = None
    findings: list[Finding] = []
    machine: str
    """processor, instruction sets and threads"""
    versions: dict[str, str]
    created: str
    """ISO 8601, UTC"""

"""The doctor's checks: each examines one aspect and returns a Finding, or None if there is nothing to report.

The text below each threshold says what it separates. "Real pools" are pools of web search, trivia, science, medical and news
questions, scored by the embedded model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from resift.evaluate.doctor import language
from resift.evaluate.lengths import shares_lost
from resift.evaluate.results import Finding
from resift.evaluate.significance import bootstrap_interval
from resift.metrics import TOP
from resift.scoring import activate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.artifact.agreement import Pool
    from resift.evaluate.doctor.evidence import Evidence
    from resift.pools.reading import CandidatePool

    Severity = Literal["problem", "warning", "note"]

NOTE_SHARE, WARNING_SHARE, PROBLEM_SHARE = 0.01, 0.1, 0.5
"""Shares of pairs, documents or queries from which a finding is a note, a warning or a problem: below the first it is an accident
of the data, and above the last most of the data is affected."""
FOREIGN_SHARE = 0.2
"""Share of foreign texts from which they are reported. In English corpora it is below 0.01 under the embedded tokenizer, and up to
0.09 under byte-level and Unigram tokenizers learned on little text."""
FEW_CANDIDATES = 10
"""Minimum size of a pool: with fewer candidates, the best ten are all of them, and reranking can only change their order."""
GOOD_PRECISION = 0.9
"""P@1 of the order given above which more than nine of ten first places cannot get better."""
MIN_LABELLED = 10
"""Minimum number of labelled queries for a statement about their mean; for fewer, the bootstrap's intervals are too narrow."""
FULL_RECALL = 0.9
"""Mean recall of the pools below which missing relevant documents are reported."""
LOW_CEILING = 0.8
"""Below this mean of the highest nDCG@10 that any order can reach, missing relevant documents are a warning, otherwise a note."""
MATERIAL_LOSS = 0.005
"""Smallest loss of nDCG@10 that is reported although it may be chance; int8 alone changes nDCG@10 by 0.004."""
SATURATION_MARGIN = 0.01
"""A sigmoid score within this of 0 or 1 is saturated: a threshold in steps of 0.01 cannot reach it."""
SATURATED_SHARE = 0.9
"""A share of saturated scores above this is reported. In real pools it is 0.4 to 0.8, as most candidates are clearly irrelevant."""
FLAT_RATIO = 0.2
"""Logits are flat if their standard deviation within pools is below this share of that in the gate pools; in real pools the share
is 0.4 to 1."""


def foreign_language(evidence: Evidence) -> Finding | None:
    """Reports texts in another language than the artifact's gate pools; see `resift.evaluate.doctor.language`."""
    reference = language.measure(evidence.tokenizer, _texts(evidence.certificate.pools)).bytes_per_token()
    pieces = language.measure(evidence.tokenizer, _texts(evidence.pools))
    foreign = pieces.foreign_mask(reference)
    share = float(foreign.mean()) if len(foreign) else 0.0
    if share < FOREIGN_SHARE or np.isnan(reference):
        return None
    these = pieces.select(foreign)
    return Finding(
        name="foreign-language",
        severity="problem" if share >= PROBLEM_SHARE else "warning",
        value=share,
        words=f"{share:.0%} of {len(foreign)} texts examined look like another language than the model's: a token covers "
        f"{these.bytes_per_token():.1f} bytes of their letters ({reference:.1f} on the artifact's gate pools), and "
        f"{these.unknown.mean():.0%} of their tokens are unknown",
        advice="use a model trained on this language, or a multilingual one; names, code and identifiers can look like this, too",
    )


def pairs_cut(evidence: Evidence) -> Finding | None:
    """Reports pairs that are longer than the model reads."""
    cut = np.concatenate([each.tokens_cut for each in evidence.scored])
    share = float(np.mean(cut > 0))
    if share < NOTE_SHARE:
        return None
    pools = zip(evidence.pools, evidence.scored, strict=True)
    lost = [shares_lost(evidence.tokenizer, pool.query, each) for pool, each in pools]
    at_least = "at least " if any(each.tokens_cut_at_least.any() for each in evidence.scored) else ""
    length, limit = evidence.reranker.resolved.max_length, evidence.reranker.artifact.manifest.pair.max_length
    longer = f"raise --max-length ({length}) towards the model's limit of {limit} tokens, or " if length < limit else ""
    return Finding(
        name="pairs-cut",
        severity=_severity(share),
        value=share,
        words=f"{share:.1%} of the pairs are longer than {length} tokens; in the median, these lose {at_least}"
        f"{np.median(cut[cut > 0]):.0f} tokens, {np.median(np.concatenate(lost)):.0%} of the document",
        advice=f"{longer}split documents into smaller chunks and rank those: text that is cut cannot make a document relevant",
    )


def query_cut(evidence: Evidence) -> Finding | None:
    """Reports queries that are longer than their share of a pair."""
    cut = np.array([each.query_tokens_cut for each in evidence.scored])
    share = float(np.mean(cut > 0))
    if not share:
        return None
    return Finding(
        name="query-cut",
        severity=_severity(share),
        value=share,
        words=f"{np.count_nonzero(cut)} of {len(cut)} queries are longer than three quarters of a pair; in the median, they lose "
        f"{np.median(cut[cut > 0]):.0f} tokens at their end",
        advice="shorten the queries to what is asked: a long query also leaves the document little room",
    )


def few_candidates(evidence: Evidence) -> Finding | None:
    """Reports pools with few candidates to choose from."""
    sizes = np.array([len(pool.documents) for pool in evidence.pools])
    median = float(np.median(sizes))
    if median >= FEW_CANDIDATES and not np.mean(sizes < 2) >= WARNING_SHARE:
        return None
    single = f", and {np.count_nonzero(sizes < 2)} have fewer than two" if (sizes < 2).any() else ""
    return Finding(
        name="few-candidates",
        severity="problem" if np.mean(sizes < 2) >= PROBLEM_SHARE else "warning",
        value=median,
        words=f"half of the pools have {median:.0f} candidates or fewer{single}: reranking can only order what is there",
        advice="ask the retriever for more candidates, such as 30 to 100",
    )


def recall_ceiling(evidence: Evidence) -> Finding | None:
    """Reports relevant documents that are missing from the pools."""
    judged = [each for each in evidence.judgements if each is not None and each.has_relevant()]
    if not judged:
        return None
    recall = float(np.mean([each.recall() for each in judged]))
    if recall >= FULL_RECALL:
        return None
    ceiling = float(np.mean([each.ceiling() for each in judged]))
    none = sum(not each.labels.any() for each in judged)
    return Finding(
        name="recall-ceiling",
        severity="warning" if ceiling < LOW_CEILING else "note",
        value=recall,
        words=f"the pools hold {recall:.0%} of the documents judged relevant, and those of {none} of {len(judged)} queries none: "
        f"no reranker can reach a higher nDCG@{TOP} than {ceiling:.3f}",
        advice="ask the retriever for more candidates, or improve it: reranking cannot bring up what was not retrieved",
    )


def nothing_relevant(evidence: Evidence) -> Finding | None:
    """Reports labelled queries without any relevant document."""
    judged = [each for each in evidence.judgements if each is not None]
    without = sum(not each.has_relevant() for each in judged)
    if not judged or without / len(judged) < NOTE_SHARE:
        return None
    return Finding(
        name="nothing-relevant",
        severity=_severity(without / len(judged)),
        value=without / len(judged),
        words=f"{without} of {len(judged)} labelled queries have no relevant document: they say nothing about a ranking",
        advice="check that labels above 0 mean relevant and that ids match; if so, the retriever misses these queries",
    )


def good_first(evidence: Evidence) -> Finding | None:
    """Reports an order given whose first documents are already relevant."""
    labelled = evidence.labelled_pools()
    if len(labelled) < MIN_LABELLED:
        return None
    precision = float(np.mean([judged.labels[0] > 0 for judged, _ in labelled]))
    if precision <= GOOD_PRECISION:
        return None
    return Finding(
        name="good-first",
        severity="note",
        value=precision,
        words=f"the order given has a relevant document first for {precision:.0%} of {len(labelled)} labelled queries (P@1)",
        advice="reranking buys little here: leave it out where only the first result counts, or test on harder queries",
    )


def given_better(evidence: Evidence) -> Finding | None:
    """Reports an order given that is better than the model's."""
    labelled = evidence.labelled_pools()
    if not labelled:
        return None
    given = np.array([judged.ndcg() for judged, _ in labelled])
    ranked = np.array([judged.ndcg(np.argsort(-scored.logits, kind="stable")) for judged, scored in labelled])
    loss = float(np.mean(given - ranked))
    if loss < MATERIAL_LOSS:
        return None
    low, high = bootstrap_interval((given - ranked)[:, None])[:, 0].tolist()
    figures = (
        f"nDCG@{TOP} is {given.mean():.4f} in the order given and {ranked.mean():.4f} in the model's: {loss:.4f} lost, "
        f"95 % interval [{low:.4f}, {high:.4f}], {len(labelled)} labelled queries"
    )
    if low > 0 and len(labelled) >= MIN_LABELLED:
        advice = "the model is wrong for these texts: use one trained on such data, or keep the order given"
        return Finding(name="given-better", severity="problem", value=loss, words=figures, advice=advice)
    return Finding(
        name="given-better",
        severity="warning",
        value=loss,
        words=f"{figures}; the loss may be chance, but there is no sign of a gain",
        advice="label more queries to be sure, and compare with a model trained on such data; until then, keep the order given",
    )


def saturated_scores(evidence: Evidence) -> Finding | None:
    """Reports scores so close to 0 and 1 that no threshold can separate them."""
    scores = activate(np.concatenate([each.logits for each in evidence.scored]), "sigmoid")
    share = float(np.mean((scores < SATURATION_MARGIN) | (scores > 1 - SATURATION_MARGIN)))
    if share <= SATURATED_SHARE:
        return None
    return Finding(
        name="saturated",
        severity="note",
        value=share,
        words=f"{share:.0%} of the scores, as probabilities (sigmoid), are within {SATURATION_MARGIN} of 0 or 1",
        advice="set no threshold on such scores, but on the logits; the ranking goes by logits and is not affected",
    )


def flat_logits(evidence: Evidence) -> Finding | None:
    """Reports logits that hardly differ within a pool, compared with the model's logits on its gate pools."""
    spreads = [float(np.std(each.logits)) for each in evidence.scored if len(each.logits) > 1]
    if not spreads:
        return None
    file = evidence.reranker.variant.file
    reference = float(np.median([np.std(pool.variants[file]) for pool in evidence.certificate.pools]))
    spread = float(np.median(spreads))
    if spread >= FLAT_RATIO * reference:
        return None
    return Finding(
        name="flat",
        severity="warning",
        value=spread,
        words=f"the logits within a pool hardly differ: their standard deviation is {spread:.2f} in the median, and "
        f"{reference:.2f} on the artifact's gate pools",
        advice="look at some pools: either all candidates are equally relevant, or the model does not know this kind of text",
    )


def duplicates(evidence: Evidence) -> Finding | None:
    """Reports candidates that repeat another one of their pool, except for case and white space."""
    pairs = repeated = 0
    for pool in evidence.pools:
        texts = [" ".join(text.casefold().split()) for text in pool.documents]
        full = [text for text in texts if text]
        pairs, repeated = pairs + len(texts), repeated + len(full) - len(set(full))
    if repeated / pairs < NOTE_SHARE:
        return None
    return Finding(
        name="duplicates",
        severity=_severity(repeated / pairs),
        value=repeated / pairs,
        words=f"{repeated / pairs:.1%} of the candidates repeat another one of their pool, except for case and white space",
        advice="remove them before ranking: they take the places of other documents in the results",
    )


def empty_documents(evidence: Evidence) -> Finding | None:
    """Reports candidates without text."""
    texts = [text for pool in evidence.pools for text in pool.documents]
    share = sum(not text or text.isspace() for text in texts) / len(texts)
    if not share:
        return None
    return Finding(
        name="empty-documents",
        severity=_severity(share),
        value=share,
        words=f"{share:.1%} of the candidates have no text",
        advice="check how the file was made: an empty document gets a score like any other",
    )


CHECKS = (
    foreign_language,
    given_better,
    pairs_cut,
    query_cut,
    few_candidates,
    recall_ceiling,
    nothing_relevant,
    duplicates,
    empty_documents,
    flat_logits,
    saturated_scores,
    good_first,
)
"""All checks; findings of equal severity are reported in this order."""


def _severity(share: float) -> Severity:
    if share >= PROBLEM_SHARE:
        return "problem"
    return "warning" if share >= WARNING_SHARE else "note"


def _texts(pools: Sequence[CandidatePool] | Sequence[Pool]) -> list[str]:
    """The queries and documents of the pools; those of one pool that are too short to be examined are joined to one text."""
    texts: list[str] = []
    for pool in pools:
        short: list[str] = []
        for text in (pool.query, *pool.documents):
            (short if len(text) < language.MIN_BYTES else texts).append(text)
        texts.append(" ".join(short))
    return texts

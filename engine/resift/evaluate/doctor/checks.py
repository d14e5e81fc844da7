"""The doctor's checks: each examines one aspect and returns a Finding, or None if there is nothing to report.

The text below each threshold says what it separates. "Real pools" are pools of web search, trivia, science, medical and news
questions, scored by the embedded model.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from resift.artifact.coverage import NO_SCRIPT, SHORTEST_CLASS, script_of
from resift.evaluate.doctor import language
from resift.evaluate.doctor.document_checks import not_prepared, preparing
from resift.evaluate.doctor.label_checks import given_better, good_first, nothing_relevant, recall_ceiling, uncalibrated
from resift.evaluate.doctor.severity import NOTE_SHARE, PROBLEM_SHARE, WARNING_SHARE, severity_of
from resift.evaluate.lengths import shares_lost
from resift.evaluate.results import Finding
from resift.scoring import activate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.artifact.agreement import Pool
    from resift.evaluate.doctor.evidence import Evidence
    from resift.pools.reading import CandidatePool

FOREIGN_SHARE = 0.2
"""Share of foreign texts from which they are reported. In English corpora it is below 0.01 under the embedded tokenizer, and up to
0.09 under byte-level and Unigram tokenizers learned on little text."""
FEW_CANDIDATES = 10
"""Minimum size of a pool: with fewer candidates, the best ten are all of them, and reranking can only change their order."""
SATURATION_MARGIN = 0.01
"""A sigmoid score within this of 0 or 1 is saturated: a threshold in steps of 0.01 cannot reach it."""
SATURATED_SHARE = 0.9
"""A share of saturated scores above this is reported. In real pools it is 0.4 to 0.8, as most candidates are clearly irrelevant."""
FLAT_RATIO = 0.2
"""Logits are flat if their standard deviation within pools is below this share of that in the gate pools; in real pools the share
is 0.4 to 1."""


def foreign_language(evidence: Evidence) -> Finding | None:
    """Reports texts in another language than the artifact's gate pools; see `resift.evaluate.doctor.language`."""
    certificate = evidence.certificate
    known = certificate.pools if certificate.pools[0].has_texts else certificate.short_pools
    reference = language.measure(evidence.tokenizer, _texts(known)).bytes_per_token()
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
        severity=severity_of(share),
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
        severity=severity_of(share),
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
        advice=f"{evidence.more_candidates()}, such as 30 to 100",
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
        advice="set no threshold on such scores, but on the probabilities that `resift calibrate` fits; the ranking goes by logits "
        "and is not affected",
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


def self_candidates(evidence: Evidence) -> Finding | None:
    """Reports queries that were documents of their own corpus."""
    found, size = np.count_nonzero(evidence.own_candidates), len(evidence.pools)
    if not found:
        return None
    return Finding(
        name="self-candidates",
        severity="note",
        value=found / size,
        words=f"{found} of {size} queries are among their own candidates, by id and text; they are left out here, as in BEIR",
        advice="let the retriever leave a query out of its own results: it takes the first place, and answers nothing",
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
        severity=severity_of(repeated / pairs),
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
        severity=severity_of(share),
        value=share,
        words=f"{share:.1%} of the candidates have no text",
        advice="check how the file was made: an empty document gets a score like any other",
    )


def short_pairs(evidence: Evidence) -> Finding | None:
    """Reports pairs of a few words, of which a model that was trained on sentences knows little."""
    lengths = np.concatenate([each.lengths for each in evidence.scored])
    share = float(np.mean(lengths <= SHORTEST_CLASS))
    if share < WARNING_SHARE:
        return None
    return Finding(
        name="short-pairs",
        severity="note",
        value=share,
        words=f"{share:.0%} of the pairs have at most {SHORTEST_CLASS} tokens, the query and special ones included",
        advice="rank longer texts, such as a title with its description: a word alone tells the model little",
    )


def not_covered(evidence: Evidence) -> Finding | None:
    """Reports pairs of a length or in a script for which the agreement with the checkpoint was not measured."""
    certificate, file = evidence.certificate, evidence.reranker.variant.file
    if not certificate.has_classes:
        return None
    classes = certificate.classes[file]
    lengths = np.concatenate([each.lengths for each in evidence.scored])
    # A document that is read in windows can be longer than its longest pair.
    places = np.searchsorted([each.up_to for each in classes], np.minimum(lengths, classes[-1].up_to))
    is_long_enough = np.array([each.is_covered for each in classes])[places]
    known = {name for name, each in certificate.scripts(file).items() if each.is_covered} | {NO_SCRIPT}
    scripts = [script_of(f"{pool.query} {document}") for pool in evidence.pools for document in pool.documents]
    unknown = Counter(script for script in scripts if script not in known)
    share = float(np.mean(~is_long_enough | np.array([script not in known for script in scripts])))
    if share < WARNING_SHARE:  # of the gate's own pairs, those of the longest class can be some percent
        return None
    kinds = [f"{count / len(scripts):.0%} are in the script {script}" for script, count in unknown.most_common(3)]
    if not is_long_enough.all():
        ends = sorted({classes[place].up_to for place in places[~is_long_enough]})
        kinds.append(f"{np.mean(~is_long_enough):.0%} have lengths in the classes of up to {', '.join(map(str, ends))} tokens")
    return Finding(
        name="not-covered",
        severity="note",
        value=share,
        words=f"for {share:.0%} of the pairs the agreement of int8 with the checkpoint was not measured: {'; '.join(kinds)}",
        advice="export the checkpoint with --gate FILE, pools like these, or compare on such pairs with `resift verify --fuzz`",
    )


CHECKS = (
    foreign_language,
    given_better,
    pairs_cut,
    query_cut,
    short_pairs,
    not_covered,
    few_candidates,
    recall_ceiling,
    nothing_relevant,
    self_candidates,
    duplicates,
    empty_documents,
    flat_logits,
    saturated_scores,
    uncalibrated,
    good_first,
    not_prepared,
    preparing,
)
"""All checks; findings of equal severity are reported in this order."""


def _texts(pools: Sequence[CandidatePool] | Sequence[Pool]) -> list[str]:
    """The queries and documents of the pools; those of one pool that are too short to be examined are joined to one text."""
    texts: list[str] = []
    for pool in pools:
        short: list[str] = []
        for text in (pool.query, *pool.documents):
            (short if len(text) < language.MIN_BYTES else texts).append(text)
        texts.append(" ".join(short))
    return texts

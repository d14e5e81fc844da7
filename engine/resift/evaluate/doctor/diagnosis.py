"""Finds what stands in the way of good rankings, from pools, their logits and, if there are any, their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resift.evaluate.doctor.checks import CHECKS
from resift.evaluate.doctor.evidence import Evidence
from resift.evaluate.doctor.severity import SEVERITIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from resift.evaluate.results import Finding
    from resift.pools.job import Progress
    from resift.pools.reading import CandidatePool
    from resift.ranking import Scored
    from resift.reranker import Reranker


def diagnose(  # noqa: PLR0913 - the pools, and what the caller knows about them
    reranker: Reranker,
    pools: Sequence[CandidatePool],
    *,
    qrels: Mapping[str, Mapping[str, int]] | None = None,
    scored: Sequence[Scored] | None = None,
    cut_at: int | None = None,
    progress: Progress | None = None,
) -> list[Finding]:
    """Finds what stands in the way of good rankings of `pools` by `reranker`; the most severe findings come first.

    `qrels`: labels by qid and docid, both as text, also of documents outside the pools; without it, the candidates' field "label"
    is used if there is one. Labels are optional: checks that need them are skipped without them.
    `scored`: the results of `Reranker.submit` for each pool, if they exist already; otherwise all pairs are scored here, in bounded
    memory, and `progress` is called after each pool. `cut_at`: the number of candidates to which the caller has cut the pools.

    A query that is one of its own candidates, by id and text, is left out of them. The checks and their thresholds are in
    `resift.evaluate.doctor.checks` and `label_checks`. Raises InputError if there are no candidates, if a label
    cannot be read, or if `qrels` judges none of the queries, ArtifactError if the artifact's certificate cannot be read, and
    otherwise like `Reranker.submit`.
    """
    evidence = Evidence.gather(reranker, pools, qrels, scored, progress, cut_at)
    found = [finding for check in CHECKS if (finding := check(evidence)) is not None]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))

"""losses: how much worse frozen graphs rank than those that they were made from, query by query, and how sure that is."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from resift.artifact.certificate import LOOKS, first_look_recall
from resift.artifact.coverage import LEAST_RANKED
from resift.evaluate.significance import bootstrap_interval
from resift.metrics import kendall_tau
from resift_export.build.graph_files import frozen_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.artifact.certificate import Certificate
    from resift.artifact.signature import Frozen

LEAST_QUERIES = 20
"""The minimum of queries that a loss is judged by.

If none of 20 loses anything, then at most 3 / 20 of all queries do, at 95 % (the rule of three: Hanley and Lippman-Hand 1983,
doi:10.1001/jama.1983.03330370053031). One exchange in a pool of ten costs 0.044 of its tau, and 0.15 x 0.044 is below 0.01.
Of simulated losses by single exchanges whose true mean is 0.01, 4 to 8 % of samples of 40 queries are surely within 0.01, and 3 to
17 % of samples of 20 or 30; where the true mean is 0.002, 81 % and 55 to 64 % are.
"""


class Loss(NamedTuple):
    """How much lower a figure is with frozen graphs, on average over queries."""

    what: str
    """the figure, in the words of a log"""
    up_to: int
    """tokens of the longest pair of its length class; 0: it is of no class"""
    queries: int
    mean: float
    low: float
    """lower end of the mean's 95 % interval, by bootstrapping the queries: `significance.bootstrap_interval`"""
    high: float
    """upper end"""

    @classmethod
    def of(cls, what: str, by_query: Sequence[float], up_to: int = 0) -> Loss:
        """That of a figure which is lower by so much for each query."""
        if not by_query:
            return cls(what, up_to, 0, 0.0, 0.0, 0.0)
        values = np.array(by_query)
        low, high = bootstrap_interval(values[:, None])[:, 0].tolist()
        return cls(what, up_to, len(values), float(values.mean()), low, high)

    @property
    def is_judged(self) -> bool:
        """Whether the queries are enough to judge by."""
        return self.queries >= LEAST_QUERIES

    def is_within(self, bound: float, *, surely: bool) -> bool:
        """Whether the mean is within the bound; `surely`: whether its interval is.

        With too few queries, it is not so surely, and otherwise taken to be.
        """
        if surely:
            return self.is_judged and self.high <= bound
        return not self.is_judged or self.mean <= bound

    def summary(self) -> str:
        """One phrase for a log."""
        if not self.is_judged:
            return f"{self.what}: {self.queries} queries, expected {LEAST_QUERIES} to judge by"
        return f"{self.what} falls by {self.mean:.4f} [{self.low:.4f}, {self.high:.4f}] over {self.queries} queries"


def tau_losses(before: Certificate, after: Certificate, how: Frozen) -> list[Loss]:
    """How much lower Kendall's tau is with frozen graphs: on the gate, and in each length class whose pairs they freeze."""
    losses = []
    for file, classes in before.classes.items():
        frozen = frozen_file(file)
        gate = [one - other for one, other in zip(_taus(before, file), _taus(after, frozen), strict=True)]
        losses.append(Loss.of(f"tau of {frozen} on the gate", gate))
        for low, end in pairwise([0, *(each.up_to for each in classes)]):
            if end > how.whole_up_to:
                what = f"tau of {frozen} on pairs of {low + 1} to {end} tokens"
                losses.append(Loss.of(what, _class_losses(before, after, file, low, end), end))
    return losses


def look_losses(before: Certificate, after: Certificate, _how: Frozen) -> list[Loss]:
    """How much a frozen first look loses, on the gate alone: of its recall, on average over its shares, and of its tau.

    The recall of ten documents is that of two: of the built-in gate, tau tells smaller losses.
    """
    losses = []
    for file in before.first_looks:
        for what, values in (("recall", _recalls), ("tau", _taus)):
            lower = [one - other for one, other in zip(values(before, file), values(after, file), strict=True)]
            losses.append(Loss.of(f"{what} of {file} on the gate", lower))
    return losses


def _taus(certificate: Certificate, file: str) -> list[float]:
    """The tau of a file with the checkpoint, for each of the gate's pools."""
    return [kendall_tau(np.array(pool.checkpoint), np.array(pool.variants[file])) for pool in certificate.pools]


def _recalls(certificate: Certificate, file: str) -> list[float]:
    """The recall of a first look, on average over LOOKS, for each of the gate's pools."""
    logits = [(np.array(pool.checkpoint), np.array(pool.variants[file])) for pool in certificate.pools]
    return [float(np.mean([first_look_recall(*each, look) for look in LOOKS])) for each in logits]


def _class_losses(before: Certificate, after: Certificate, file: str, low: int, end: int) -> list[float]:
    """How much lower tau is for each query, on average over its pools, on pairs of more than `low` and at most `end` tokens.

    Pools of one query have documents in common: they are not as good as pools of several.
    """
    by_query = defaultdict(list)
    for one, other in zip(before.all_pools, after.all_pools, strict=True):
        tokens = np.array(one.tokens)
        here = (low < tokens) & (tokens <= end)
        if here.sum() >= LEAST_RANKED:
            exact, logits = np.array(one.checkpoint)[here], (one.variants[file], other.variants[frozen_file(file)])
            whole, frozen = (kendall_tau(exact, np.array(each)[here]) for each in logits)
            by_query[one.query].append(whole - frozen)
    return [float(np.mean(each)) for each in by_query.values()]

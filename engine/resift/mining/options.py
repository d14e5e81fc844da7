"""Options of mining; together with the collection and the teacher, they determine the pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from resift.errors import InputError

WITH_TEACHER, WITHOUT_TEACHER = (1, 100), (10, 100)
"""Default ranks: without a teacher, the best ranks are left out, as many documents that answer a query are among them unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningOptions:
    """Which documents become negatives. Raises InputError for a value out of range, and for values that leave no negative."""

    negatives: int = 7
    """maximum number for a query"""
    positives: int = 5
    """maximum number that is written for a query; all are left out of its negatives"""
    ranks: tuple[int, int] = WITH_TEACHER
    """first and last rank, from 1, that a negative may have"""
    max_share: float = 0.95
    """of the probability that the teacher gives to the best positive, the largest share that it may give to a negative"""
    margin: float = 0.0
    """how far, in logits, the teacher must put a negative below the best positive"""
    max_overlap: float = 0.6
    """share of shingles from which on a document counts as a copy of a positive, or of another negative"""
    trust_labels: bool = False
    """whether a document that is judged not relevant is a negative whatever the teacher says"""
    hardest: bool = False
    """whether the best ranks are taken first, and not a random sample of the ranks"""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("negatives", "positives"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected 1 or more")
        first, last = self.ranks
        if not 1 <= first <= last:
            raise InputError(f"ranks are {first}-{last}; expected two rising ranks from 1, such as 10-100")
        if last - first + 1 < self.negatives:
            raise InputError(
                f"ranks {first}-{last} hold {last - first + 1} documents, too few for {self.negatives} negatives; widen --ranks, "
                "or lower --negatives"
            )
        if not 0 < self.max_share <= 1:
            raise InputError(f"max_share is {self.max_share:g}; expected a share above 0, and at most 1, such as 0.95")
        if not (self.margin >= 0 and math.isfinite(self.margin)):
            raise InputError(f"margin is {self.margin:g}; expected a difference of logits of 0 or more")
        if not 0 < self.max_overlap <= 1:
            raise InputError(f"max_overlap is {self.max_overlap:g}; expected a share above 0, and at most 1, such as 0.6")

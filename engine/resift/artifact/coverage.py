"""Coverage: how far an artifact agrees with its checkpoint by length and by script of the pair, and what was not measured."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from resift.artifact.agreement import Bounds, are_close
from resift.artifact.fields import Count, Positive, Strict
from resift.errors import ParityError
from resift.metrics import kendall_tau

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from resift.artifact.agreement import Pool

LEAST_PAIRS = 100
"""The minimum of pairs of a class that make its 99th percentile meaningful; a class with fewer is not covered."""
LEAST_RANKED = 5
"""The minimum of a pool's documents in a class for which their order is compared."""
SHORTEST_CLASS = 8
"""Tokens of the longest pair of the first length class; those of each further class are twice as many."""
NO_SCRIPT = "none"
"""The script of a pair without letters, such as one of numbers."""
GENERATED_OFF = 0.05
"""The maximum share of generated pairs that may be beyond the bound on errors. They are odder than any that a person writes."""
EXAMINED_CHARACTERS = 2000
"""The script of a text is that of its first so many characters."""


class PartAgreement(Strict, frozen=True, kw_only=True):
    """The agreement on some of the gate's pairs: those of one length class, or those in one script."""

    pairs: Count
    error: float | None = None
    """99th percentile of |logit - checkpoint's|, as a share of the checkpoint's range of logits over all pairs. This figure and the
    next two are None where the pairs are too few: they are not covered."""
    off: float | None = None
    """share of the pairs of which |logit - checkpoint's| is above the bound on `error`"""
    tau: float | None = None
    """mean Kendall tau-b of the pools' documents that are among them; None, too, if no pool has LEAST_RANKED of them"""

    @property
    def is_covered(self) -> bool:
        """Whether the pairs are enough for figures."""
        return self.error is not None

    def summary(self) -> str:
        """One phrase for a log."""
        if self.error is None or self.off is None:
            return f"not covered ({self.pairs} pairs)"
        order = "" if self.tau is None else f", tau {self.tau:.4f}"
        return f"p99 error {self.error:.2%} of the range, {self.off:.2%} of {self.pairs} pairs beyond the bound{order}"

    def is_close_to(self, other: PartAgreement) -> bool:
        """Whether all figures are equal up to rounding."""
        return are_close(self, other)

    def holds(self, bounds: Bounds) -> bool:
        """Whether the error is within its bound, or the pairs are not covered."""
        return self.error is None or self.error <= bounds.error


class ClassAgreement(PartAgreement, frozen=True, kw_only=True):
    """The agreement on the pairs of one length class: those longer than the class before, and of at most `up_to` tokens."""

    up_to: Positive
    """tokens of the longest pair, special tokens included"""


def check_classes(classes: Sequence[ClassAgreement], bounds: Bounds, what: str) -> None:
    """Raises ParityError that lists every length class whose error is beyond its bound, if any. `what` names the graph."""
    if failing := [each for each in classes if not each.holds(bounds)]:
        found = "; ".join(f"of up to {each.up_to} tokens: {each.summary()}" for each in failing)
        raise ParityError(
            f"{what} does not score pairs of every length like its checkpoint: {found}; expected a p99 error of at most "
            f"{bounds.error:.0%} of the range"
        )


def class_bounds(max_length: int) -> list[int]:
    """The tokens of the longest pair of each length class: 8, 16, 32, ... and last `max_length`."""
    ends = []
    end = SHORTEST_CLASS
    while end < max_length:
        ends.append(end)
        end *= 2
    return [*ends, max_length]


def script_of(text: str) -> str:
    """The script of most letters of a text by their Unicode names, such as "latin", "cyrillic" or "cjk"; NO_SCRIPT without any."""
    counts = Counter(map(_script, text[:EXAMINED_CHARACTERS]))
    del counts[NO_SCRIPT]
    return max(counts, key=lambda name: (counts[name], name), default=NO_SCRIPT)


@lru_cache(1 << 14)
def _script(character: str) -> str:
    if not character.isalpha():
        return NO_SCRIPT
    return unicodedata.name(character, NO_SCRIPT).partition(" ")[0].lower()


def measure_generated(
    references: Sequence[NDArray[np.floating]], logits: Sequence[NDArray[np.floating]], span: float, bounds: Bounds
) -> PartAgreement:
    """The agreement on generated pairs, of relevance `logits` with `references`, one array per pool each.

    `span`: the range of the checkpoint's logits on the gate's pairs.
    """
    return PartAgreement(**_figures(np.concatenate(references), np.concatenate(logits), span, bounds))


def largest_difference(
    pools: Sequence[Pool], references: Sequence[NDArray[np.floating]], logits: Sequence[NDArray[np.floating]]
) -> str:
    """The pair whose logit differs most, for a log: both logits and the beginnings of its texts."""
    pairs = ((pool, number) for pool in pools for number in range(len(pool.documents)))
    exact, found = np.concatenate(references), np.concatenate(logits)
    largest = int(np.abs(found - exact).argmax())
    pool, number = next(islice(pairs, largest, None))
    return f"{pool.query!r:.60} and {pool.documents[number]!r:.60}: {found[largest]:.2f}, the checkpoint {exact[largest]:.2f}"


def check_generated(found: PartAgreement, bounds: Bounds, what: str) -> None:
    """Raises ParityError if too many generated pairs are beyond the bound on errors. `what` names the graph."""
    if found.off is not None and not found.off <= GENERATED_OFF:
        raise ParityError(
            f"{what} does not score generated pairs like its checkpoint: {found.summary()}; expected at most {GENERATED_OFF:.0%} "
            f"beyond {bounds.error:.0%} of the range"
        )


def measure_classes(
    tokens: Sequence[NDArray[np.integer]],
    checkpoint: Sequence[NDArray[np.floating]],
    logits: Sequence[NDArray[np.floating]],
    max_length: int,
    bounds: Bounds,
) -> list[ClassAgreement]:
    """The agreement by length class of relevance `logits` with the `checkpoint`'s, one array per pool each.

    `tokens`: the lengths of the pairs, likewise.
    """
    ends = np.array(class_bounds(max_length))
    parts = [ends[np.searchsorted(ends, lengths)] for lengths in tokens]
    return [ClassAgreement(up_to=int(end), **_figures_of(parts, end, checkpoint, logits, bounds)) for end in ends]


def measure_scripts(
    scripts: Sequence[Sequence[str]],
    checkpoint: Sequence[NDArray[np.floating]],
    logits: Sequence[NDArray[np.floating]],
    bounds: Bounds,
) -> dict[str, PartAgreement]:
    """The agreement by script of the pair, most frequent first. `scripts`: those of each pool's pairs; the others as above."""
    parts = [np.array(names) for names in scripts]
    counts = Counter(name for names in scripts for name in names)
    return {name: PartAgreement(**_figures_of(parts, name, checkpoint, logits, bounds)) for name, _ in counts.most_common()}


def _figures_of(
    parts: Sequence[NDArray[np.generic]],
    part: object,
    checkpoint: Sequence[NDArray[np.floating]],
    logits: Sequence[NDArray[np.floating]],
    bounds: Bounds,
) -> dict[str, Any]:
    """The fields of a PartAgreement on the pairs of `part`. `parts`: what each pair is part of, one array per pool."""
    masks = [np.asarray(each == part) for each in parts]
    mask, reference = np.concatenate(masks), np.concatenate(checkpoint)
    pools = zip(masks, checkpoint, logits, strict=True)
    taus = [kendall_tau(exact[here], found[here]) for here, exact, found in pools if here.sum() >= LEAST_RANKED]
    figures = _figures(reference[mask], np.concatenate(logits)[mask], float(np.ptp(reference)), bounds)
    return {**figures, "tau": float(np.mean(taus)) if taus and "error" in figures else None}


def _figures(reference: NDArray[np.floating], logits: NDArray[np.floating], span: float, bounds: Bounds) -> dict[str, Any]:
    """The fields of a PartAgreement, without tau, on some pairs; only their number where they are not covered."""
    if len(reference) < LEAST_PAIRS:
        return {"pairs": len(reference)}
    errors = np.abs(logits.astype(np.float64) - reference) / max(span, np.finfo(np.float32).tiny)
    return {
        "pairs": len(reference),
        "error": float(np.percentile(errors, 99)),
        "off": float((errors > bounds.error).mean()),
    }

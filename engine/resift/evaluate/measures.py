"""Computes the measures of ir-measures from rankings and judgements, with trec_eval's own code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from resift.errors import ExtraError, InputError, first_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Judgements = Mapping[str, Mapping[str, int]]
    """labels by query id and document id"""

MEASURES = ("nDCG@10", "P@1", "RR@10", "AP", "R@10")
"""The default measures."""
MEASURES_URL = "https://ir-measur.es/en/latest/measures.html"
MEASURE_ERRORS = (
    ValueError,
    NameError,
    TypeError,
    AssertionError,
    LookupError,
    RecursionError,
    ArithmeticError,
    RuntimeError,
    OSError,
)
"""Exceptions that ir-measures and its providers raise for a measure that does not exist or that they cannot compute."""
TRIAL_QRELS: dict[str, dict[str, int]] = {"q": {"a": 0, "b": 1, "c": 2}}
"""Judgements with which each measure is tried before anything is scored."""


def parse_measures(names: Sequence[str]) -> list[Any]:
    """ir-measures' measure objects for `names`, such as nDCG@10 or P(rel=2)@5, without repetitions; str() gives their names.

    Each is tried once, so that it cannot fail after hours of scoring. Raises InputError for a name that ir-measures does not know
    or cannot compute here, and ExtraError if the extra `eval` is not installed.
    """
    ir_measures = _ir_measures()
    if not names:
        raise InputError(f"no measures; expected at least one of ir-measures' names, such as {MEASURES[0]}: {MEASURES_URL}")
    measures = {}
    for name in names:
        try:
            measure = ir_measures.parse_measure(name)
            measure.validate_params()
            cutoff = measure.params.get("cutoff", 1)
            if cutoff < 1:  # trec_eval ends the process
                raise ValueError(f"cutoff {cutoff}")
            ir_measures.evaluator([measure], TRIAL_QRELS).calc_aggregate({"q": {"a": 1.0, "b": 0.0}})
        except MEASURE_ERRORS as error:
            raise InputError(
                f"measure {name!r:.200} cannot be computed ({first_line(error)}); expected a name of ir-measures, such as "
                f"{', '.join(MEASURES)}: {MEASURES_URL}"
            ) from error
        measures[str(measure)] = measure
    return list(measures.values())


class Judge:
    """Measures rankings of the same queries' candidates against their judgements.

    trec_eval sorts by score and breaks ties by document id, whatever order it is given. Documents are therefore named by number
    and scored by descending rank, so that the ranking itself is measured and no id can be misread.
    """

    def __init__(self, measures: Sequence[str], qids: Sequence[str], docids: Sequence[Sequence[str]], qrels: Judgements) -> None:
        """For n queries `qids` with distinct candidates `docids[i]`. `qrels` may judge other queries and documents, too.

        Raises InputError for a query without judgements or with two candidates of one id, and otherwise like `parse_measures`.
        """
        self._measures = parse_measures(measures)
        self.names = [str(measure) for measure in self._measures]
        """the measures' names as ir-measures writes them"""
        self._numbers: list[list[str]] = []
        qrels_by_number: dict[str, dict[str, int]] = {}
        for place, (qid, candidates) in enumerate(zip(qids, docids, strict=True)):
            labels = qrels.get(qid)
            if not labels:
                raise InputError(f"query {qid!r} has no judgements; leave it out, or judge at least one document")
            numbers = {docid: str(number) for number, docid in enumerate(dict.fromkeys([*candidates, *labels]))}
            if len(set(candidates)) < len(candidates):
                twice = next(docid for docid in candidates if candidates.count(docid) > 1)
                raise InputError(f"query {qid!r} has the candidate {twice!r} twice; expected distinct document ids")
            qrels_by_number[str(place)] = {numbers[docid]: label for docid, label in labels.items()}
            self._numbers.append([numbers[docid] for docid in candidates])
        self._evaluator = _ir_measures().evaluator(self._measures, qrels_by_number)

    def values(self, orders: Sequence[NDArray[np.integer[Any]]]) -> dict[str, NDArray[np.float64]]:
        """By measure, float64[n]: its value for each query.

        `orders[i]` holds positions in query i's candidates, best first; candidates that it omits count as not retrieved.
        """
        runs = {
            str(place): {self._numbers[place][position]: -float(rank) for rank, position in enumerate(order.tolist())}
            for place, order in enumerate(orders)
        }
        found = {name: np.full(len(orders), np.nan) for name in self.names}
        for value in self._evaluator.iter_calc(runs):
            found[str(value.measure)][int(value.query_id)] = value.value
        for name, values in found.items():
            if np.isnan(values).any():
                raise InputError(f"{name} is undefined for {int(np.isnan(values).sum())} of {len(values)} queries; leave it out")
        return found


def _ir_measures() -> Any:
    try:
        import ir_measures
        import pytrec_eval  # noqa: F401 - without it, ir-measures computes some measures by other code
    except ImportError as error:
        raise ExtraError(f"evaluating needs ir-measures, which is not installed ({error}): pip install 'resift[eval]'") from error
    return ir_measures

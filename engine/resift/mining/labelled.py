"""Reads labelled candidate pools as a collection: their documents, and their queries with the candidates in the order given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resift.errors import InputError
from resift.evaluate.data.dataset import read_dataset
from resift.mining.collection import Collection, MiningDocument, MiningQuery

if TYPE_CHECKING:
    import os

    from resift.pools.reading import CandidatePool

NO_POSITIVE = "no candidate is relevant"


def read_labelled(path: str | os.PathLike[str], *, relevant_from: int = 1, group: str | None = None, **reading: Any) -> Collection:
    """Reads labelled pools in any form that `resift eval` takes; `reading`: options of `read_dataset`.

    `relevant_from`: the lowest label that answers a query. `group`: a field that candidates of one source share. Ids that name
    different texts in different pools, such as numbers that each pool counts anew, are left out. Raises InputError like
    `read_dataset`, and if no pool has a relevant candidate.
    """
    dataset = read_dataset(path, **reading)
    registry = _Registry(group)
    queries = []
    without = 0
    for row, pool in enumerate(dataset.pools):
        places = registry.places(pool)
        labels = dataset.labels(pool)
        judged = dataset.qrels[str(pool.qid)]
        best_first = sorted(range(len(places)), key=lambda position: -labels[position])
        positives = list(dict.fromkeys(places[each] for each in best_first if labels[each] >= relevant_from))
        others = {
            place: labels[position]
            for position, place in enumerate(places)
            if labels[position] < relevant_from and pool.fields[position]["docid"] in judged
        }
        if positives:
            queries.append(MiningQuery(pool.query, str(pool.qid), positives, others, row, list(dict.fromkeys(places))))
        else:
            without += 1
    if not queries:
        raise InputError(
            f"{path}: no pool has a candidate with a label of {relevant_from} or above; lower --relevant-from, or label some"
        )
    documents = registry.documents()
    collection = Collection(dataset.name, documents, queries, size=len(documents), rows=len(dataset.pools))
    collection.left_out.update({**dataset.left_out, NO_POSITIVE: without})
    return collection


class _Registry:
    """The documents of all pools, each text once."""

    def __init__(self, group: str | None) -> None:
        self._group = group
        self._places: dict[str, int] = {}
        self._docids: list[str] = []
        self._groups: list[str | None] = []

    def places(self, pool: CandidatePool) -> list[int]:
        """Where the candidates of a pool are."""
        found = []
        for text, fields in zip(pool.documents, pool.fields, strict=True):
            place = self._places.setdefault(text, len(self._docids))
            if place == len(self._docids):
                self._docids.append(fields["docid"])
                value = None if self._group is None else fields.get(self._group)
                self._groups.append(None if value in (None, "") else str(value))
            found.append(place)
        return found

    def documents(self) -> list[MiningDocument]:
        """All documents in the order of their places."""
        are_ids = len(set(self._docids)) == len(self._docids)
        columns = zip(self._places, self._docids, self._groups, strict=True)
        return [MiningDocument(text, docid if are_ids else None, group) for text, docid, group in columns]

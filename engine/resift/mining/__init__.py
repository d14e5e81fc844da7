"""Mining (extra: mine): training pairs from documents and from queries with known answers, by retrieval and a teacher.

    from resift.mining import MiningOptions, mine, read_corpus

    found = mine(read_corpus("corpus.jsonl", "queries.jsonl"), MiningOptions())
    print(len(found.pairs), found.documents_left_out)

Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resift.mining.collection import Collection
    from resift.mining.corpus import read_corpus
    from resift.mining.labelled import read_labelled
    from resift.mining.mine import Mined, mine
    from resift.mining.options import MiningOptions

__all__ = ["Collection", "Mined", "MiningOptions", "mine", "read_corpus", "read_labelled"]

_HOMES = {
    "collection": ("Collection",),
    "corpus": ("read_corpus",),
    "labelled": ("read_labelled",),
    "mine": ("Mined", "mine"),
    "options": ("MiningOptions",),
}
"""Names by the module that defines them."""


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Runner: what a worker does with a batch. A graph scores it; for a split graph, states are looked up or computed as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resift.scheduling.halves import Phase, stack_documents, stack_queries
from resift.states.document_states import Found

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from resift.runtime.sessions import Sessions
    from resift.scheduling.call import Batch, Call
    from resift.states.document_states import DocumentStates


class Runner:
    """Runs the batches of an artifact's graphs. Any number of threads may call it at once."""

    def __init__(self, sessions: Sessions, states: Mapping[str, DocumentStates]) -> None:
        """`states`: where the states of documents are looked up and kept, by the split graph that they are for."""
        self._sessions = sessions
        self._states = states

    def __call__(self, batch: Batch) -> Any:
        """What `Scheduler.done` is given for a batch. Raises like `Sessions.run`."""
        match batch.phase:
            case None:
                return self._sessions.run(batch.graph, batch.stack())
            case Phase.QUERY:
                return self._sessions.run(batch.graph, stack_queries(batch))
            case Phase.DOCUMENT:
                return self._compute(batch)
            case Phase.LOOKUP:
                return self._look_up(batch)

    def _look_up(self, batch: Batch) -> dict[Call, Found]:
        """What is known of each call's documents."""
        states, found = self._states[batch.graph], {}
        for call, rows in batch.by_call().items():
            digests = call.documents[batch.graph].digests
            found[call] = states.find([digests[row] for row in rows], owner=call.states_owner or "")
        return found

    def _compute(self, batch: Batch) -> dict[Call, Found]:
        """The states of each call's documents, which are kept for later calls."""
        computed = self._sessions.states(batch.graph, stack_documents(batch))
        computed.flags.writeable = False
        states: dict[Call, list[NDArray[np.uint8]]] = {call: [] for call, _ in batch.rows}
        for (call, _), each in zip(batch.rows, computed, strict=True):
            states[call].append(each)
        for call, rows in batch.by_call().items():
            if call.states_owner is not None:
                digests = call.documents[batch.graph].digests
                self._states[batch.graph].keep([digests[row] for row in rows], states[call], owner=call.states_owner)
        return {call: Found([*each], 0, 0) for call, each in states.items()}

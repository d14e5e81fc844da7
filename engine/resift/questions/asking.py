"""Asking: several threads ask an endpoint about documents at once, and their answers come in as they are ready."""

from __future__ import annotations

from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from resift.errors import InputError
from resift.process import start_thread
from resift.questions.endpoint import BudgetSpentError, ChatEndpoint, RefusedError
from resift.questions.journal import DocumentEntry
from resift.questions.prompt import messages, questions_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from resift.mining.collection import MiningDocument
    from resift.questions.endpoint import Address, Budget

    Outcome = DocumentEntry | BaseException | None
    """what a document brought, or why a thread ends; None once it has ended"""

WITHOUT_QUESTION, NO_ANSWER = "an answer without a question", "no answer before the budget was spent"
FIRST_REFUSALS = 5
"""Requests that an endpoint may refuse one after another before any is answered; then it would refuse them all."""


class Asking:
    """Asks for questions on documents."""

    def __init__(
        self, documents: Sequence[MiningDocument], address: Address, budget: Budget, *, count: int, characters: int
    ) -> None:
        """`count`: questions of a document. `characters`: of its text that are sent."""
        self._documents, self._address, self._budget = documents, address, budget
        self._count, self._characters = count, characters
        self.is_spent = False
        """whether the budget ended the run"""

    def entries(self, positions: Sequence[int], concurrency: int) -> Iterator[DocumentEntry]:
        """An entry for each of these documents, in the order in which they are ready; fewer where the budget is spent.

        Raises InputError if the endpoint cannot be used. Threads that still wait for an answer then are left to end by themselves.
        """
        tasks: SimpleQueue[int] = SimpleQueue()
        outcomes: SimpleQueue[Outcome] = SimpleQueue()
        for position in positions:
            tasks.put(position)
        threads = min(concurrency, len(positions))
        refused = 0
        is_answered = False
        try:
            for number in range(threads):
                start_thread(self._work, f"resift-questions-{number}", tasks, outcomes)
            while threads:
                match _next(outcomes):
                    case None:
                        threads -= 1
                    case BudgetSpentError():
                        self.is_spent = True
                    case DocumentEntry() as entry:
                        is_answered |= entry.fault is None
                        refused += entry.fault is not None
                        if refused >= FIRST_REFUSALS and not is_answered:
                            raise InputError(f"{self._address.name} refuses every request; the last: {entry.fault}")
                        yield entry
                    case BaseException() as error:
                        raise error
        finally:
            self._budget.stopped.set()

    def _work(self, tasks: SimpleQueue[int], outcomes: SimpleQueue[Outcome]) -> None:
        """Asks until no document remains, or an error ends the run."""
        endpoint = ChatEndpoint(self._address, self._budget)
        try:
            while True:
                self._ask(endpoint, tasks.get_nowait(), outcomes)
        except Empty:
            pass
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            outcomes.put(error)
        finally:
            endpoint.close()
            outcomes.put(None)

    def _ask(self, endpoint: ChatEndpoint, position: int, outcomes: SimpleQueue[Outcome]) -> None:
        """Asks about one document. What an error costs, which ends the run, is an entry, too: its requests count for the budget."""
        text, before = self._documents[position].text, endpoint.requests
        questions: list[str] = []
        fault: str | None = None
        try:
            questions = questions_of(endpoint.ask(messages(text, self._count, self._characters)), self._count, text)
            fault = None if questions else WITHOUT_QUESTION
        except RefusedError as error:
            fault = str(error)
        except (InputError, BudgetSpentError) as error:
            fault = str(error) or NO_ANSWER
            raise
        finally:
            if endpoint.requests > before and (questions or fault):
                requests = endpoint.requests - before
                outcomes.put(DocumentEntry(document=position, questions=questions, fault=fault, requests=requests))


def _next(outcomes: SimpleQueue[Outcome]) -> Outcome:
    """The next outcome; a wait without an end could not be interrupted on Windows."""
    while True:
        try:
            return outcomes.get(timeout=1.0)
        except Empty:
            continue

"""Which requests are admitted, without a network."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

pytest.importorskip("starlette")

from resift.serve.admission import LITTLE, Admission, HeldBytes
from resift.serve.config import Config
from resift.serve.request import Refusal


def refused(act, *arguments) -> str:
    """Why it is refused; empty if it is not."""
    try:
        act(*arguments)
    except Refusal as refusal:
        assert refusal.reason == "busy"
        return str(refusal)
    return ""


def test_only_bodies_that_have_arrived_count_against_the_limit_of_requests():
    admission = Admission(Config(max_concurrent_requests=2))
    with ExitStack() as stack:
        for _ in range(9):  # whose bodies are awaited
            stack.enter_context(admission.request())
        stack.enter_context(admission.body())
        with admission.body():
            assert refused(stack.enter_context, admission.body()).startswith("Model is overloaded: 2 requests are in progress")
            assert refused(stack.enter_context, admission.request())
        with admission.request(), admission.body():
            assert (admission.requests, admission.bodies) == (10, 2)
    assert (admission.requests, admission.bodies) == (0, 0)


def test_a_client_of_few_bytes_is_not_refused_for_what_others_hold():
    held = HeldBytes(limit=100 * LITTLE)
    with ExitStack() as stack:
        hostile = [stack.enter_context(held.of(f"hostile {number}")) for number in range(5)]
        for holding in hostile:
            assert not refused(holding.receive, 20 * LITTLE)
        assert held.total == 100 * LITTLE
        assert refused(hostile[0].receive, 1)
        honest = stack.enter_context(held.of("honest"))
        assert not refused(honest.receive, LITTLE)
        assert refused(honest.receive, 1)
    assert held.total == 0


@pytest.mark.parametrize("parts", [[26], [20, 6]], ids=["by one request", "by two"])
def test_a_client_may_have_a_quarter_unless_one_request_has_it_all(parts):
    held = HeldBytes(limit=100)
    with ExitStack() as stack:
        found = [refused(stack.enter_context(held.of("a")).receive, part) for part in parts]
    assert [bool(each) for each in found] == [False] * (len(parts) - 1) + [len(parts) > 1]

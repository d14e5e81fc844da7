from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resift.encoding.truncation import longest_first


@pytest.mark.parametrize(
    ("query", "document", "kept"),
    [
        (0, 0, (0, 0)),
        (3, 4, (3, 4)),
        (0, 9, (0, 7)),
        (9, 0, (7, 0)),
        (2, 9, (2, 5)),
        (9, 2, (5, 2)),
        (3, 9, (3, 4)),
        (9, 3, (4, 3)),
        (9, 9, (3, 4)),  # the odd token is the document's, ...
        (10, 9, (4, 3)),  # ... unless the query is the longer
        (8, 900, (3, 4)),
    ],
)
def test_of_seven_tokens(query, document, kept):
    assert longest_first(query, document, 7) == kept


@given(query=st.integers(0, 50), document=st.integers(0, 50), room=st.integers(1, 40))
def test_one_token_at_a_time_is_taken_from_the_longer(query, document, room):
    kept = longest_first(query, document, room)
    assert sum(kept) == min(room, query + document)
    lost = (query - kept[0], document - kept[1])
    assert min(lost) >= 0
    if lost[0]:
        assert kept[0] >= kept[1] - 1
    if lost[1]:
        assert kept[1] >= kept[0] - 1

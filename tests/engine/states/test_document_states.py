"""States of documents by digest: memory within its bound, the store behind it, and whose memory it is."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

from resift.errors import InputError
from resift.states import layout
from resift.states.cache import ENTRY_BYTES
from resift.states.digests import digest_of
from resift.states.document_states import DocumentStates
from tests.support.forks import beside_threads, can_fork, in_child
from tests.support.stores import SIZE, digest, filled, found, reading, states


def entry(tokens=3):
    return tokens * SIZE + ENTRY_BYTES


def keep(document_states, *numbers, tokens=3, **options):
    document_states.keep([digest(number) for number in numbers], [states(number, tokens) for number in numbers], **options)


def test_a_digest_is_of_tokens_and_segments_alone():
    ids, segments = np.array([5, 6, 7], np.int32), np.array([1, 1, 1], np.int32)
    assert digest_of(ids, segments).hex() == "cf5232a76af2d43fc38d0ed9e051cb11", "stores of any machine can be read"
    wide = np.stack([ids, ids], axis=1)
    assert digest_of(wide[:, 0], segments.astype(np.int64)) == digest_of(ids, segments)
    different = [
        digest_of(ids, segments - 1),
        digest_of(ids[:2], segments[:2]),
        digest_of(ids[::-1], segments),
        digest_of(segments, ids),
    ]
    assert len({*different, digest_of(ids, segments)}) == 5


def test_what_was_kept_is_found_and_counted():
    known = DocumentStates("i", SIZE, cache_bytes=1 << 20, store=None)
    keep(known, 1, 2)
    answer = known.find([digest(2), digest(3), digest(1), digest(3)])
    assert [None if each is None else each.tolist() for each in answer.states] == [
        states(2).tolist(), None, states(1).tolist(), None,
    ]  # fmt: skip
    assert (answer.prepared, answer.cached) == (0, 2)
    assert known.counts == (0, 2, 2)
    assert known.find([]).states == []


def test_states_are_copied_and_cannot_be_written():
    known = DocumentStates("i", SIZE, cache_bytes=1 << 20, store=None)
    batch = np.zeros((4, 5, SIZE), np.uint8)
    known.keep([digest(1)], [batch[1, :3]])
    batch[:] = 9
    [kept] = known.find([digest(1)]).states
    assert kept.shape == (3, SIZE)
    assert not kept.any()
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 1
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        kept.flags.writeable = True


def test_the_least_recently_used_make_room():
    known = DocumentStates("i", SIZE, cache_bytes=3 * entry(), store=None)
    keep(known, 1, 2, 3)
    assert known.cache_bytes == 3 * entry()
    found(known, [1])
    keep(known, 4)
    assert found(known, [1, 2, 3, 4]) == [1, 3, 4]
    keep(known, 1, 4)  # they are there already, and take no room twice
    assert known.cache_bytes == 3 * entry()
    keep(known, 5, tokens=3 * entry())  # larger than all of it
    assert found(known, [1, 3, 4, 5]) == [1, 3, 4]


def test_the_bound_holds_for_documents_of_any_length():
    known, random = DocumentStates("i", SIZE, cache_bytes=20_000, store=None), np.random.default_rng(0)
    for number in range(400):
        keep(known, number, tokens=int(random.integers(1, 200)))
        assert known.cache_bytes <= 20_000
    assert known.cache_bytes > 15_000


def test_no_bytes_keep_nothing():
    known = DocumentStates("i", SIZE, cache_bytes=0, store=None)
    keep(known, 1)
    assert (found(known, [1]), known.cache_bytes) == ([], 0)


def test_one_owner_does_not_see_what_another_one_had_computed(tmp_path):
    known = reading(filled(tmp_path, [7]), cache=1 << 20)
    keep(known, 1, owner="a")
    keep(known, 2, owner="b")
    asked = [digest(number) for number in (1, 2, 7)]
    assert [each is not None for each in known.find(asked, owner="a").states] == [True, False, True]
    assert known.find(asked, owner="b")[1:] == (1, 1)
    assert known.find(asked, owner="c")[1:] == (1, 0)
    assert known.find(asked, owner="b")[1:] == (0, 2), "what was read from the store is in b's memory now"


def test_what_the_store_has_is_read_once(tmp_path):
    known = reading(filled(tmp_path, [1, 2]), cache=1 << 20)
    assert found(known, [1, 2, 3]) == [1, 2]
    assert known.counts == (2, 0, 1)
    assert found(known, [1, 2, 3]) == [1, 2]
    assert known.counts == (2, 2, 2)


def test_closed_it_knows_nothing_and_does_not_fail(tmp_path):
    known = reading(filled(tmp_path, [1]), cache=1 << 20)
    keep(known, 2)
    assert found(known, [1, 2]) == [1, 2]
    known.close()
    known.close()
    keep(known, 2)  # a batch was running
    assert found(known, [1, 2]) == []
    assert known.cache_bytes == 0


def test_a_store_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"the store .*nowhere is not a folder; expected one that `resift prepare` fills"):
        reading(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not a folder"):
        reading(tmp_path / "file")


def test_sqlite_is_imported_only_for_a_store():
    code = "import sys; from resift.states.document_states import DocumentStates as D; D('i', 8, cache_bytes=9, store=None)"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'sqlite3' not in sys.modules"], check=True)


def test_a_thread_that_comes_during_the_first_look_waits_for_it(tmp_path, monkeypatch):
    known, read_header = reading(filled(tmp_path, range(4))), layout.read_header
    has_begun, go_on, answers = threading.Event(), threading.Event(), []

    def look(folder):
        has_begun.set()
        go_on.wait(60)
        return read_header(folder)

    monkeypatch.setattr(layout, "read_header", look)
    threads = [threading.Thread(target=lambda: answers.append(found(known, [1]))) for _ in range(2)]
    threads[0].start()
    assert has_begun.wait(60)
    threads[1].start()
    threads[1].join(0.5)  # as long as it may take to answer wrongly: it must wait
    go_on.set()
    for thread in threads:
        thread.join()
    assert answers == [[1], [1]]


def test_threads_share_one_memory_and_one_store(tmp_path):
    known = reading(filled(tmp_path, range(64), tokens=50), cache=10 * entry(50))
    faults = []

    def look(seed):
        random = np.random.default_rng(seed)
        try:
            for _ in range(60):
                numbers = random.integers(0, 80, 8).tolist()
                assert found(known, numbers, tokens=50) == [number for number in numbers if number < 64]
        except BaseException as error:  # noqa: BLE001 - shown below
            faults.append(error)

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert sum(known.counts) == 4 * 60 * 8
    assert known.cache_bytes <= 10 * entry(50)


@can_fork
@beside_threads
def test_a_forked_child_reads_the_store_while_threads_of_the_parent_do(tmp_path):
    known = reading(filled(tmp_path, range(32), tokens=400), cache=40 * entry(400))
    keep(known, 99)
    is_over = threading.Event()

    def look():
        while not is_over.is_set():
            known.find([digest(number) for number in range(32)], owner=str(threading.get_ident()))
            known._cache.clear()

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert in_child(lambda: [found(known, [*range(40)], tokens=400), found(known, [99])]) == [[*range(32)], []]
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert found(known, [*range(40)], tokens=400) == [*range(32)]

"""What a store holds, whether it is sound, and what leaves it: no state of it stays in its files."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

import pytest

from resift.errors import InputError, OutputError
from resift.states import maintenance
from resift.states.digests import checksum_of
from resift.states.writer import StoreWriter
from tests.support.stores import IDENTITY, SIZE, content, digest, filled, found, header, reading


def shards(store):
    return sorted(store.glob("states-*/*.sqlite"))


def bytes_of(store):
    return b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())


def damage(path, *numbers):
    with closing(sqlite3.connect(path)) as connection, connection:
        for number in numbers:
            connection.execute("UPDATE states SET checksum = checksum + 1 WHERE digest = ?", (digest(number),))


def test_the_contents_are_told_by_identity(tmp_path):
    filled(tmp_path, range(10), label="mine")
    filled(tmp_path, range(3), identity="older", shards=1, label="former")
    found_contents = {each.header.label: each for each in maintenance.contents(tmp_path)}
    assert {label: each.documents for label, each in found_contents.items()} == {"mine": 10, "former": 3}
    assert found_contents["mine"].header.size == SIZE
    assert sum(each.bytes for each in found_contents.values()) == sum(path.stat().st_size for path in shards(tmp_path))
    assert [each.faults for each in found_contents.values()] == [[], []]
    with pytest.raises(InputError, match=r"the store .*nowhere is not a folder"):
        maintenance.contents(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert maintenance.contents(tmp_path / "empty") == []


def test_a_check_counts_sound_and_damaged_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(maintenance, "ROWS", 7)
    filled(tmp_path, range(50), shards=1)
    [shard] = maintenance.check(tmp_path)
    assert shard[1:] == (50, 0, None)
    damage(shards(tmp_path)[0], 3, 4)
    [shard] = maintenance.check(tmp_path)
    assert shard[1:] == (48, 2, None)


def test_a_check_tells_what_cannot_be_read(tmp_path):
    filled(tmp_path, range(50), shards=2)
    shards(tmp_path)[1].write_bytes(b"no database at all" * 100)
    first, second = maintenance.check(tmp_path)
    assert first.fault is None
    assert second[1:] == (0, 0, "file is not a database")
    [contents] = maintenance.contents(tmp_path)
    assert contents.documents == first.documents
    assert contents.faults == [f"{second.path}: file is not a database"]


def test_a_commit_of_another_process_is_waited_for_and_is_no_fault(tmp_path):
    filled(tmp_path, range(10), shards=1)
    with closing(sqlite3.connect(shards(tmp_path)[0], isolation_level=None, check_same_thread=False)) as connection:
        for look in (maintenance.check, maintenance.contents):
            connection.execute("BEGIN EXCLUSIVE")
            commit = threading.Timer(0.3, connection.execute, ["COMMIT"])
            commit.start()
            [seen] = look(tmp_path)
            commit.join()
            assert (seen.documents, seen[-1]) in [(10, None), (10, [])]


def test_a_header_of_states_that_are_larger_than_sqlite_keeps_is_read(tmp_path):
    filled(tmp_path, [1], shards=1)
    [path] = tmp_path.glob("states-*/store.json")
    path.write_text(path.read_text().replace(f'"size": {SIZE}', f'"size": {1 << 40}'))
    [shard] = maintenance.check(tmp_path)
    assert "is not the shard that its name says" in shard.fault
    assert [each.faults for each in maintenance.contents(tmp_path)] == [[f"{shard.path}: {shard.fault}"]]


def test_a_row_that_its_index_does_not_find_is_damaged(tmp_path):
    filled(tmp_path, range(20), shards=1)
    [path] = shards(tmp_path)

    def change(*statements):
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            return [connection.execute(statement, values).fetchall() for statement, values in statements]

    [schema] = change(("SELECT * FROM sqlite_master", ()))
    indexed = [row for row in schema if row[2] == "states"]
    change(
        ("DELETE FROM sqlite_master WHERE type = 'index' AND tbl_name = 'states'", ()),
        ("UPDATE sqlite_master SET sql = replace(sql, 'PRIMARY KEY', '') WHERE name = 'states'", ()),
    )
    change(("INSERT INTO states VALUES (?, ?, ?)", (digest(99), checksum_of(digest(99), content(99)), content(99))))
    change(
        ("DELETE FROM sqlite_master WHERE tbl_name = 'states'", ()),
        *(("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", row) for row in indexed),
    )
    assert found(reading(tmp_path), [*range(20), 99]) == [*range(20)]
    [shard] = maintenance.check(tmp_path)
    assert shard[1:] == (20, 1, None)


def test_pruning_leaves_the_sound_states_of_one_identity(tmp_path):
    filled(tmp_path, range(30), tokens=500, shards=2)
    filled(tmp_path, range(30), tokens=500, identity="older")
    (tmp_path / ".states-0123456789abcdef.1.partial").mkdir()
    before = len(bytes_of(tmp_path))
    damaged = next(path for path in shards(tmp_path) if path.parent == maintenance.layout.folder_of(tmp_path, IDENTITY))
    here = [number for number in range(30) if maintenance.layout.shard_number(digest(number), 2) == 0]
    damage(damaged, *here[:2])
    removed = maintenance.prune(tmp_path, IDENTITY)
    assert removed[:3] == (0, 2, 1)
    assert removed.bytes == before - len(bytes_of(tmp_path)) > 30 * 500 * SIZE
    assert found(reading(tmp_path), range(30), tokens=500) == [number for number in range(30) if number not in here[:2]]
    assert [each.header.identity for each in maintenance.contents(tmp_path)] == [IDENTITY]
    assert len([*tmp_path.iterdir()]) == 1


def test_a_store_is_not_emptied_for_a_model_that_it_has_nothing_of(tmp_path):
    filled(tmp_path, [1])
    with pytest.raises(InputError, match="has no states of this model on this machine: all 1 kinds of states would be removed"):
        maintenance.prune(tmp_path, "newer")
    assert found(reading(tmp_path), [1]) == [1]


def test_pruning_to_some_documents(tmp_path):
    filled(tmp_path, range(30), tokens=500)
    removed = maintenance.prune(tmp_path, IDENTITY, {digest(number) for number in range(10, 50)})
    assert removed[:3] == (10, 0, 0)
    assert found(reading(tmp_path), range(30), tokens=500) == [*range(10, 30)]
    assert removed.bytes > 5 * 500 * SIZE


def test_files_shrink_to_what_stays(tmp_path):
    filled(tmp_path / "store", range(200), tokens=2000, shards=1)
    filled(tmp_path / "empty", [], shards=1)
    maintenance.forget(tmp_path / "store", {digest(number) for number in range(200)})
    assert len(bytes_of(tmp_path / "store")) < len(bytes_of(tmp_path / "empty")) + 4 * 16384


def test_pruning_removes_a_shard_that_cannot_be_read(tmp_path):
    filled(tmp_path, range(30), shards=2)
    _, second = shards(tmp_path)
    second.write_bytes(b"no database at all" * 100)
    assert maintenance.prune(tmp_path, IDENTITY).damaged == 1
    assert not second.exists()
    filled(tmp_path, range(30))
    assert found(reading(tmp_path), range(30)) == [*range(30)]


def test_what_is_forgotten_is_in_no_file_of_the_store(tmp_path):
    filled(tmp_path, range(30), tokens=3000)
    filled(tmp_path, range(30), tokens=3000, identity="older")
    part = content(7, 3000)[64:96]
    assert part in bytes_of(tmp_path)
    removed = maintenance.forget(tmp_path, {digest(7), digest(99)})
    assert removed[:3] == (2, 0, 0)
    assert part not in bytes_of(tmp_path)
    assert found(reading(tmp_path), range(30), tokens=3000) == [number for number in range(30) if number != 7]
    assert maintenance.forget(tmp_path, {digest(7)}).documents == 0


def test_nothing_is_removed_while_another_process_writes(tmp_path):
    filled(tmp_path, range(10))
    with StoreWriter(tmp_path, header()):
        filled(tmp_path, [1], identity="newer")
        for remove in (
            lambda: maintenance.prune(tmp_path, IDENTITY),
            lambda: maintenance.prune(tmp_path, "newer"),
            lambda: maintenance.forget(tmp_path, {digest(1)}),
        ):
            with pytest.raises(OutputError, match="another process is writing this store"):
                remove()
    assert found(reading(tmp_path), range(10)) == [*range(10)]

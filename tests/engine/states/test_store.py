"""A store on disk: who may read it, who may write it, and what of it is there when."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import sys
import threading
import time
from contextlib import closing

import pytest

from resift.errors import InputError, OutputError
from resift.states import database, layout, reader
from resift.states.writer import StoreWriter
from tests.support.stores import content, digest, filled, found, header, reading

only_posix = pytest.mark.skipif(sys.platform == "win32", reason="of POSIX")


@pytest.fixture
def impatient(monkeypatch):
    """Readers look for files whenever they read."""
    monkeypatch.setattr(reader, "LOOK_SECONDS", 0.0)


def shards(store):
    return sorted(store.glob("states-*/*.sqlite"))


# What is written is read


def test_what_was_kept_is_found_by_any_reader(tmp_path):
    filled(tmp_path, range(40))
    assert found(reading(tmp_path), range(50)) == [*range(40)]
    assert len(shards(tmp_path)) == 4
    with StoreWriter(tmp_path, header(shards=9)) as writer:
        assert writer.header.shards == 4, "the store stays what it is"
        assert writer.missing(map(digest, range(30, 50))) == sorted(map(digest, range(40, 50)), key=shard_then_place)
        writer.keep({digest(49): content(49)})
    assert found(reading(tmp_path), range(50)) == [*range(40), 49]


def shard_then_place(name):
    order = [digest(number) for number in range(40, 50)]
    numbers = [layout.shard_number(each, 4) for each in order]
    return numbers.index(layout.shard_number(name, 4)), order.index(name)


def test_a_reader_asks_each_shard_once_for_any_number_of_documents(tmp_path, monkeypatch):
    filled(tmp_path, range(200))
    known, asked = reading(tmp_path), []
    select = database.select
    monkeypatch.setattr(database, "select", lambda *arguments: asked.append(len(arguments[1])) or select(*arguments))
    assert found(known, range(250)) == [*range(200)]
    assert len(asked) == 4
    assert sum(asked) == 250


def test_more_documents_than_a_query_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "VARIABLES", 7)
    filled(tmp_path, range(100), shards=1)
    assert found(reading(tmp_path), range(120)) == [*range(100)]


def test_a_store_that_comes_grows_and_goes_is_noticed(tmp_path, impatient, caplog):
    known = reading(tmp_path)
    assert found(known, [1, 2]) == []
    assert "has no states yet: documents are computed anew; fill it with `resift prepare`" in caplog.text
    filled(tmp_path, [1])
    assert found(known, [1, 2]) == [1]
    filled(tmp_path, [2])
    assert found(known, [1, 2]) == [1, 2]
    shutil.rmtree(next(tmp_path.iterdir()))
    assert found(known, [1, 2]) == []
    filled(tmp_path, [2])
    assert found(known, [1, 2]) == [2]
    assert len(caplog.records) == 1


def test_a_store_that_is_made_anew_with_other_shards_is_read(tmp_path, impatient, caplog):
    known = reading(filled(tmp_path, range(20), shards=4))
    assert found(known, range(20)) == [*range(20)]
    shutil.rmtree(next(tmp_path.iterdir()))
    filled(tmp_path, range(10), shards=3)
    assert found(known, range(20)) == [*range(10)]
    assert not caplog.records


def test_a_reader_does_not_look_for_files_all_the_time(tmp_path, monkeypatch):
    known, looks = reading(tmp_path), []
    monkeypatch.setattr(layout, "read_header", looks.append)
    for _ in range(5):
        assert found(known, [1]) == []
    assert len(looks) == 1


def test_a_writer_waits_for_the_disk(tmp_path, monkeypatch):
    monkeypatch.undo()
    with StoreWriter(tmp_path, header(shards=1)) as writer:
        assert writer._connections[0].execute("PRAGMA synchronous").fetchone() == (3,)
        assert writer._connections[0].execute("PRAGMA journal_mode").fetchone() == ("delete",)


# Who may read and write


@only_posix
def test_files_are_their_owners_alone(tmp_path):
    before = os.umask(0)
    try:
        filled(tmp_path / "new" / "store", [1])
    finally:
        os.umask(before)
    for path in (tmp_path / "new").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@only_posix
def test_a_folder_that_cannot_be_written_is_read(tmp_path):
    filled(tmp_path, [1, 2, 3])
    for path in [*tmp_path.rglob("*"), tmp_path]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        assert found(reading(tmp_path), range(5)) == [1, 2, 3]
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    finally:
        for path in [tmp_path, *tmp_path.rglob("*")]:
            path.chmod(0o700)


def test_a_second_writer_of_a_shard_is_refused_at_once(tmp_path):
    with StoreWriter(tmp_path, header()):
        with pytest.raises(OutputError, match=r"another process is writing this store .*00.lock") as caught:
            StoreWriter(tmp_path, header())
        assert "\n" not in str(caught.value)
        other = header("another model")
        StoreWriter(tmp_path, other).close()
    StoreWriter(tmp_path, header()).close()


def test_parts_have_a_writer_each(tmp_path):
    writers = [StoreWriter(tmp_path, header(shards=5), part=(number, 3)) for number in (1, 2, 3)]
    every = {digest(number): content(number) for number in range(60)}
    assert [sum(writer.has(each) for writer in writers) for each in every] == [1] * 60
    for writer in writers:
        with pytest.raises(OutputError, match="another process"):
            StoreWriter(tmp_path, header(), part=(1, 1))
        writer.keep(every)
    for writer in writers:
        writer.close()
    assert found(reading(tmp_path), range(60)) == [*range(60)]
    with pytest.raises(InputError, match="part 6/6 of 5 shards"):
        StoreWriter(tmp_path, header(), part=(6, 6))


def test_readers_read_while_a_writer_writes(tmp_path):
    known, faults, is_over = reading(filled(tmp_path, range(20))), [], threading.Event()

    def look():
        while not is_over.is_set():
            if not set(range(20)) >= set(found(known, range(20))) or found(known, [5000]):
                faults.append("another document")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        with StoreWriter(tmp_path, header()) as writer:
            for start in range(20, 60, 10):
                writer.keep({digest(number): content(number, 2000) for number in range(start, start + 10)})
    finally:
        is_over.set()
        thread.join()
    assert not faults
    assert found(known, range(20)) == [*range(20)]
    assert found(known, range(20, 60), tokens=2000) == [*range(20, 60)]


@pytest.mark.parametrize("is_open", [True, False])
def test_a_reader_that_meets_a_commit_takes_the_documents_for_new(tmp_path, caplog, is_open):
    filled(tmp_path, [1], shards=1)
    known = reading(tmp_path)
    assert not is_open or found(known, [1]) == [1]
    with closing(sqlite3.connect(shards(tmp_path)[0], isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert found(known, [1]) == []
        connection.execute("ROLLBACK")
    assert found(known, [1]) == [1]
    assert not caplog.records


def test_a_reader_that_meets_a_commit_in_a_new_file_looks_again_at_the_next_call(tmp_path, caplog, monkeypatch):
    filled(tmp_path, [1], shards=1)
    known = reading(tmp_path)
    assert found(known, [1]) == [1]
    [path] = shards(tmp_path)
    shutil.copy(path, tmp_path / "copy")
    (tmp_path / "copy").replace(path)
    now = time.monotonic() + 60
    with closing(sqlite3.connect(path, isolation_level=None)) as connection, monkeypatch.context() as later:
        connection.execute("BEGIN EXCLUSIVE")
        later.setattr(time, "monotonic", lambda: now)
        assert found(known, [1]) == []
        connection.execute("ROLLBACK")
        assert found(known, [1]) == [1]
    assert not caplog.records


# Symbolic links, a full disk


@only_posix
@pytest.mark.parametrize("name", ["", "00.sqlite", "00.lock"])
def test_nothing_is_written_through_a_symbolic_link(tmp_path, name):
    store, elsewhere = filled(tmp_path / "store", [1]), tmp_path / "elsewhere"
    [folder] = store.iterdir()
    path = folder / name
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    before = sorted((each, each.stat().st_mtime_ns) for each in tmp_path.rglob("*"))
    with pytest.raises((OutputError, InputError), match=r"is a symbolic link|is not a regular file"):
        StoreWriter(store, header())
    assert sorted((each, each.stat().st_mtime_ns) for each in tmp_path.rglob("*")) == before


@only_posix
def test_a_store_may_itself_be_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "store").symlink_to("there")
    filled(tmp_path / "store", [1])
    assert found(reading(tmp_path / "store"), [1]) == [1]
    assert found(reading(tmp_path / "there"), [1]) == [1]


def test_a_full_disk_is_said_and_loses_nothing(tmp_path):
    with StoreWriter(filled(tmp_path, range(5)), header()) as writer:
        for connection in writer._connections.values():
            [[pages]] = connection.execute("PRAGMA page_count")
            connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(OutputError, match="cannot be written: database or disk is full; what was kept before stays"):
            writer.keep({digest(number): content(number, 4000) for number in range(10, 30)})
        known = reading(tmp_path)
        assert found(known, range(5)) == [*range(5)]
        for connection in writer._connections.values():
            connection.execute("PRAGMA max_page_count = 1000000")
        writer.keep({digest(number): content(number, 4000) for number in range(10, 30)})
    assert found(known, range(10, 30), tokens=4000) == [*range(10, 30)]


def test_a_place_where_nothing_can_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"the store .*file.store cannot be created: Not a directory"):
        StoreWriter(tmp_path / "file" / "store", header())

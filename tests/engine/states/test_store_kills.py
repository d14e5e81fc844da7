"""A writer that is killed at any moment: what it said to be kept stays, nothing false is read, and the next one goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys

import pytest

from resift.states import layout
from resift.states.database import open_to_read
from resift.states.writer import StoreWriter
from tests.support.stores import IDENTITY, content, digest, filled, found, header, reading

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills of POSIX")

WRITER = """
import sys
from pathlib import Path
from resift.states.writer import StoreWriter
from tests.support.stores import content, digest, header

with StoreWriter(Path(sys.argv[1]), header()) as writer:
    for start in range(int(sys.argv[2]), 1 << 30, 16):
        writer.keep({digest(number): content(number, 1 + number % 700) for number in range(start, start + 16)})
        print(start + 16, flush=True)
"""
MID_COMMIT = """
import os, signal, sys
from pathlib import Path
from resift.states.writer import StoreWriter
from resift.states.digests import checksum_of
from tests.support.stores import content, digest, header

writer = StoreWriter(Path(sys.argv[1]), header(shards=1))
connection = writer._connections[0]
connection.execute("PRAGMA cache_size = 10")  # so that the file itself is written before the transaction ends
connection.execute("BEGIN IMMEDIATE")
for number in range(200):
    name, states = digest(number), content(number + 1, 3000)
    connection.execute("INSERT OR REPLACE INTO states VALUES (?, ?, ?)", (name, checksum_of(name, states), states))
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(store, start, seconds):
    """The number up to which a writer said that documents were kept, which was killed after that time from its first word."""
    with subprocess.Popen([sys.executable, "-c", WRITER, store, str(start)], stdout=subprocess.PIPE, text=True) as process:
        first = process.stdout.readline()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        said = [first, *process.stdout.read().splitlines(keepends=True)]
    return max(int(line) for line in said if line.endswith("\n"))


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_what_was_said_to_be_kept_is_there_after_every_kill(tmp_path, kills):
    chance, kept = random.Random(kills), 0
    for _ in range(kills):
        kept = killed(tmp_path, kept, chance.uniform(0, 0.2))
        known = reading(tmp_path)
        for number in range(kept + 32):
            there = found(known, [number], tokens=1 + number % 700)  # which asserts that it is the right one
            assert there or number >= kept, f"{number} of {kept}"
        known.close()
    with StoreWriter(tmp_path, header()) as writer:
        assert writer.missing(digest(number) for number in range(kept)) == []


def test_a_transaction_that_was_cut_short_is_rolled_back_by_the_first_reader(tmp_path):
    filled(tmp_path, range(0, 200, 2), shards=1)
    process = subprocess.run([sys.executable, "-c", MID_COMMIT, tmp_path], check=False)
    assert process.returncode == -signal.SIGKILL
    [path] = tmp_path.glob("states-*/00.sqlite")
    assert path.with_name("00.sqlite-journal").stat().st_size > 10_000
    assert path.stat().st_size > 1_000_000, "the file holds rows that were never kept"
    assert found(reading(tmp_path), range(200)) == [*range(0, 200, 2)]
    assert not path.with_name("00.sqlite-journal").exists()


def test_a_reader_that_is_open_goes_on_after_a_kill(tmp_path, caplog):
    known = reading(filled(tmp_path, range(0, 200, 2), shards=1))
    assert found(known, range(200)) == [*range(0, 200, 2)]
    subprocess.run([sys.executable, "-c", MID_COMMIT, tmp_path], check=False)
    assert set(found(known, range(200))) <= {*range(0, 200, 2)}
    assert found(known, range(200)) == [*range(0, 200, 2)]
    assert not caplog.records


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_reader_that_may_not_roll_back_takes_the_documents_for_new(tmp_path, caplog):
    filled(tmp_path, range(0, 200, 2), shards=1)
    subprocess.run([sys.executable, "-c", MID_COMMIT, tmp_path], check=False)
    [folder] = tmp_path.iterdir()
    for path in folder.iterdir():
        path.chmod(0o400)
    folder.chmod(0o500)
    try:
        assert found(reading(tmp_path), range(200)) == []
        assert "its documents are computed anew; `resift store check` tells more" in caplog.text
    finally:
        folder.chmod(0o700)


def test_a_shard_whose_creator_was_killed_is_filled_later(tmp_path):
    folder, of = layout.create(tmp_path, header(shards=2))
    (folder / "00.sqlite").touch()
    assert open_to_read(layout.shards_of(folder, of)[0]) is None
    assert found(reading(tmp_path), [1, 2]) == []
    filled(tmp_path, [1, 2])
    assert found(reading(tmp_path), [1, 2]) == [1, 2]


def test_a_store_whose_creator_was_killed_is_created_again(tmp_path):
    """Another one may have its number, as the only process of a container always has."""
    folder = layout.folder_of(tmp_path, IDENTITY)
    (tmp_path / f".{folder.name}.{os.getpid()}.partial").mkdir()
    filled(tmp_path, [1])
    assert found(reading(tmp_path), [1]) == [1]


def test_a_lock_of_a_killed_writer_is_free(tmp_path):
    killed(tmp_path, 0, 0)
    with StoreWriter(tmp_path, header()) as writer:
        writer.keep({digest(1): content(1, 2)})

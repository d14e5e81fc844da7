"""A store that is damaged, or another's: what cannot be trusted is computed anew, which is said once."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
from contextlib import closing

import pytest

from resift.errors import InputError, OutputError
from resift.states import layout
from resift.states.writer import StoreWriter
from tests.support.stores import digest, filled, found, header, reading

only_posix = pytest.mark.skipif(sys.platform == "win32", reason="of POSIX")


def shards(store):
    return sorted(store.glob("states-*/*.sqlite"))


def damage(path, change):
    """Changes a shard's file behind SQLite's back."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(change)


# Nothing false is read


def test_a_row_whose_bytes_have_changed_is_not_read(tmp_path, caplog):
    filled(tmp_path, range(10), shards=1)
    damage(shards(tmp_path)[0], f"UPDATE states SET content = zeroblob(24) WHERE digest = x'{digest(3).hex()}'")
    known = reading(tmp_path)
    for _ in range(3):
        assert found(known, range(10)) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    [record] = caplog.records
    assert "holds damaged states; its documents are computed anew; `resift store check` tells more" in record.message
    filled(tmp_path, [3])
    assert found(known, range(10)) == [*range(10)]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE states SET digest = randomblob(16)",
        "UPDATE states SET content = ''",
        "UPDATE states SET content = substr(content, 1, 9)",
        "UPDATE states SET content = 'text'",
        "UPDATE states SET content = 7",
        "UPDATE states SET checksum = NULL WHERE 0; ",
        "UPDATE states SET checksum = checksum + 1",
        "DROP TABLE states",
        "DROP TABLE header",
        "UPDATE header SET value = 'other' WHERE name = 'identity'",
        "UPDATE header SET value = 16 WHERE name = 'size'",
        "UPDATE header SET value = 2 WHERE name = 'number'",
    ],
)
def test_no_change_of_a_shard_makes_a_reader_fail_or_believe_it(tmp_path, change):
    filled(tmp_path, [1, 2], shards=1)
    damage(shards(tmp_path)[0], change)
    assert found(reading(tmp_path), [1, 2]) == ([1, 2] if "WHERE 0" in change else [])


def test_states_in_the_place_of_anothers_are_not_read(tmp_path):
    filled(tmp_path, [1, 2], shards=1)
    first = f"(SELECT checksum, content FROM states WHERE digest = x'{digest(1).hex()}')"
    damage(shards(tmp_path)[0], f"UPDATE states SET (checksum, content) = {first}")
    assert found(reading(tmp_path), [1, 2]) == [1]


@pytest.mark.parametrize("kept", [0, 100, 5000, 20_000])
def test_a_file_that_was_cut_is_computed_anew(tmp_path, kept, caplog):
    filled(tmp_path, range(50), tokens=100, shards=1)
    os.truncate(shards(tmp_path)[0], kept)
    known = reading(tmp_path)
    assert set(found(known, range(50), tokens=100)) < {*range(50)}
    assert set(found(known, range(50), tokens=100)) < {*range(50)}
    assert len(caplog.records) <= 1


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))])
def test_bytes_that_change_anywhere_never_give_other_states(tmp_path, seed):
    import random

    chance = random.Random(seed)
    filled(tmp_path, range(30), tokens=300, shards=1)
    [path] = shards(tmp_path)
    whole = path.read_bytes()
    for _ in range(15):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 1, 20])):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        known = reading(tmp_path)
        found(known, range(30), tokens=300)  # asserts that what is found is right
        known.close()


def test_a_file_of_something_else_is_no_shard(tmp_path, caplog):
    filled(tmp_path, [1], shards=1)
    shards(tmp_path)[0].write_bytes(b"this is no database, but it is long enough to be taken for one" * 20)
    assert found(reading(tmp_path), [1]) == []
    assert "cannot be read (file is not a database)" in caplog.text
    with pytest.raises(OutputError, match=r"is damaged .*: remove it with `resift store prune`"):
        StoreWriter(tmp_path, header())


@only_posix
def test_a_pipe_in_place_of_a_shard_is_not_waited_for(tmp_path, caplog):
    filled(tmp_path, [1], shards=1)
    [path] = shards(tmp_path)
    path.unlink()
    os.mkfifo(path)
    assert found(reading(tmp_path), [1]) == []
    assert "is not a regular file; expected a shard of a store" in caplog.text


# Identities


def test_states_of_another_identity_are_never_read(tmp_path, caplog):
    filled(tmp_path, [1, 2], identity="older")
    known = reading(tmp_path)
    for _ in range(3):
        assert found(known, [1, 2]) == []
    [record] = caplog.records
    assert "has states of 1 other models, machines or versions, none of this one" in record.message
    filled(tmp_path, [2])
    assert found(reading(tmp_path), [1, 2]) == [2]
    assert found(reading(tmp_path, identity="older"), [1, 2]) == [1, 2]


def test_another_identitys_shard_in_the_place_of_ones_own_is_not_read(tmp_path, caplog):
    filled(tmp_path, [1], identity="older", shards=1)
    [foreign] = shards(tmp_path)
    filled(tmp_path, [2], shards=1)
    mine = next(path for path in shards(tmp_path) if path != foreign)
    shutil.copy(foreign, mine)
    assert found(reading(tmp_path), [1, 2]) == []
    assert "is not the shard that its name says" in caplog.text
    with pytest.raises(OutputError, match="is not the shard that its name says: remove it with `resift store prune`"):
        StoreWriter(tmp_path, header())


def test_a_copied_header_does_not_change_whose_states_they_are(tmp_path, caplog):
    filled(tmp_path, [1], identity="older", shards=1)
    [folder] = tmp_path.iterdir()
    folder.rename(layout.folder_of(tmp_path, header().identity))
    assert found(reading(tmp_path), [1]) == []
    assert "is not of the states it is named for" in caplog.text
    with pytest.raises(InputError, match="is not of the states it is named for; remove it"):
        StoreWriter(tmp_path, header())


def test_states_of_another_size_are_not_read(tmp_path):
    filled(tmp_path, [1])
    assert reading(tmp_path, size=4).find([digest(1)]).states == [None]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no header of a store"),
        ("[]", "is no header of a store"),
        ('{"identity": "i"}', "is no header of a store"),
        (json.dumps({"identity": "i", "size": 8, "shards": 4, "format": 2}), "has the format 2; expected 1"),
        (json.dumps({"identity": "i", "size": 8, "shards": 1 << 40}), "has 1099511627776 shards"),
        (json.dumps({"identity": "i", "size": 0, "shards": 4}), "states of 0 bytes"),
        (" " * (1 << 17), "is no header of a store"),
    ],
)
def test_a_header_that_cannot_be_used_is_said_and_not_believed(tmp_path, text, said, caplog):
    filled(tmp_path, [1])
    [path] = tmp_path.glob("states-*/store.json")
    path.write_text(text)
    assert found(reading(tmp_path), [1]) == []
    assert said in caplog.text
    with pytest.raises(InputError, match=said):
        StoreWriter(tmp_path, header())

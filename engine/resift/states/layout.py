"""Layout: where a store keeps what.

Each identity has a folder of its own, states-IDENTITY. In it are its header, store.json, which is written whole before anything
else; the shards of its digests, 00.sqlite and so on; and beside each a file such as 00.lock, which the one process that writes the
shard holds.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from resift.errors import InputError, OutputError
from resift.files.json_decoding import decode_json
from resift.files.names import path_text
from resift.files.placing import place
from resift.files.whole import read_whole

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1
HEADER, FOLDER = "store.json", "states-"
HEADER_LIMIT = 1 << 16
"""Maximum size of a header in bytes."""
SHARDS, MOST_SHARDS = 16, 256
"""Shards of a new store: enough for as many writers, few enough that a reader may have all of them open."""


class Header(msgspec.Struct, frozen=True):
    """What the shards of a folder hold."""

    identity: str
    """a digest of all that makes the bits of states"""
    size: int
    """components of a token's state, one byte each"""
    shards: int
    label: str = ""
    """what people know the identity by: the model, its precision, onnxruntime's version, the architecture"""
    format: int = FORMAT


class Shard(NamedTuple):
    """One file of a store."""

    folder: Path
    header: Header
    number: int

    @property
    def path(self) -> Path:
        """The file of its states."""
        return self.folder / f"{self.number:02x}.sqlite"

    @property
    def lock_path(self) -> Path:
        """The file that its writer holds."""
        return self.folder / f"{self.number:02x}.lock"


def folder_of(store: Path, identity: str) -> Path:
    """The folder of an identity in a store, whether it exists or not."""
    return store / f"{FOLDER}{hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()}"


def folders(store: Path) -> list[Path]:
    """The folders of all identities. Raises InputError if the store is not a folder."""
    if not store.is_dir():
        raise InputError(f"the store {path_text(store)} is not a folder; expected one that `resift prepare` filled")
    return sorted(path.parent for path in store.glob(f"{FOLDER}*/{HEADER}"))


def shards_of(folder: Path, header: Header) -> list[Shard]:
    """The shards of an identity, whether their files exist or not."""
    return [Shard(folder, header, number) for number in range(header.shards)]


def shard_number(digest: bytes, shards: int) -> int:
    """The number of the shard that a digest falls into, by its first two bytes."""
    return int.from_bytes(digest[:2]) * shards >> 16


def read_header(folder: Path) -> Header | None:
    """The header of an identity; None if it has none yet. Raises InputError if it is damaged or newer than this resift."""
    path = folder / HEADER
    try:
        header = decode_json(read_whole(path, HEADER_LIMIT), Header)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path_text(path)} is no header of a store: {reason}; remove its folder, and prepare again") from error
    if header.format != FORMAT:
        raise InputError(f"{path_text(path)} has the format {header.format}; expected {FORMAT}: use the resift that wrote it")
    if not (1 <= header.shards <= MOST_SHARDS and header.size >= 1):
        raise InputError(
            f"{path_text(path)} has {header.shards} shards and states of {header.size} bytes; expected 1 to {MOST_SHARDS}, and 1 "
            "or more; remove its folder, and prepare again"
        )
    return header


def create(store: Path, header: Header) -> tuple[Path, Header]:
    """The folder of the header's identity and the header in it, which counts if the folder is there already.

    The folder appears with its header; only its owner may read it. Raises OutputError if it cannot be created, or if it is a
    symbolic link, and InputError if the header that is there is of states of another size.
    """
    folder = folder_of(store, header.identity)
    try:
        store.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.is_symlink():
            raise OutputError(f"{path_text(folder)} is a symbolic link; expected a folder: states are written into no other place")
        if not folder.exists():
            _place_new(folder, header)
    except OSError as error:
        raise OutputError(f"the store {path_text(store)} cannot be created: {error.strerror or error}") from error
    found = read_header(folder)
    if found is None or (found.identity, found.size) != (header.identity, header.size):
        raise InputError(
            f"{path_text(folder)} is not of the states it is named for; remove it, and prepare again, or name another store"
        )
    return folder, found


def _place_new(folder: Path, header: Header) -> None:
    """Another process may be first: then its folder stays."""
    fresh = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.partial")
    fresh.mkdir(mode=0o700)
    try:
        descriptor = os.open(fresh / HEADER, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(header)) + b"\n")
        place(fresh, folder)
    except OSError:
        if not (folder / HEADER).exists():
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)

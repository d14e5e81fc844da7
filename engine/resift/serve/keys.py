"""Keys: the API keys of the server, each with limits of its own. The file of several keys is read again whenever it changes."""

from __future__ import annotations

import hmac
import logging
import os
import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import msgspec

from resift.errors import InputError
from resift.files.whole import read_toml
from resift.serve.admission import retry_after
from resift.serve.config import SECRET
from resift.serve.logs import log
from resift.serve.request import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.datastructures import Headers

    from resift.serve.config import Config

Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 40)]
Secret = Annotated[str, msgspec.Meta(min_length=1)]
HOLDER = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Names of holders, which are in the log."""


class Allowance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one holder of keys may do: a table of the file."""

    key: Secret | Annotated[list[Secret], msgspec.Meta(min_length=1)]
    """the key, or several that are valid at once, such as the old one and the new one"""
    max_concurrent_requests: Count | None = None
    documents_per_minute: Count | None = None

    @property
    def secrets(self) -> list[str]:
        """All keys of the holder."""
        return [self.key] if isinstance(self.key, str) else self.key


class Account:
    """The requests of one holder of keys. Only one thread may use it."""

    def __init__(self, holder: str, clock: Callable[[], float]) -> None:
        """`holder`: its name in the log; empty if there is only one. `clock`: seconds."""
        self.holder = holder
        self.max_requests: int | None = None
        self.documents_per_minute: int | None = None
        self._clock = clock
        self._requests = 0
        self._documents = 0.0
        """documents of its requests, less what was allowed since"""
        self._counted_at = clock()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts a request while it is in progress. Raises Refusal if the holder has too many."""
        if self.max_requests is not None and self._requests >= self.max_requests:
            message = f"{self._requests} requests of this key are in progress, and no more are allowed; try again later"
            raise Refusal("busy", message, retry_after=1)
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    def spend(self, documents: int) -> None:
        """Counts the documents of a request. Raises Refusal while those of earlier ones are a minute's or more."""
        if self.documents_per_minute is None:
            return
        now, rate = self._clock(), self.documents_per_minute / 60
        self._documents = max(0.0, self._documents - rate * (now - self._counted_at))
        self._counted_at = now
        excess = self._documents - self.documents_per_minute
        if excess >= 0:
            message = f"this key may send {self.documents_per_minute} documents a minute, and has; try again later"
            raise Refusal("busy", message, retry_after=retry_after(excess / rate))
        self._documents += documents


class Keys:
    """Finds the account of a request by the key that it carries. Without any key, all requests share one account."""

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds. Raises InputError for a file of keys that cannot be read or used."""
        self._path = config.api_key_file
        self._clock = clock
        self._read_as: tuple[int, ...] | None = None
        self._sole = Account("", clock)
        self._accounts = {config.api_key.encode(): self._sole} if config.api_key else {}
        if self._path:
            self._read_as = self._version()
            self._use(read_allowances(self._path))

    def find(self, headers: Headers) -> Account:
        """The account of a request. Raises Refusal unless it carries a key; every key is compared, in constant time."""
        if self._path:
            self._refresh()
        if not self._accounts:
            return self._sole
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        given = credentials.strip().encode()
        matching = [account for secret, account in self._accounts.items() if hmac.compare_digest(given, secret)]
        if not matching or scheme.lower() != "bearer":
            raise Refusal("key", "invalid API key; expected the header `Authorization: Bearer KEY`")
        return matching[0]

    def _refresh(self) -> None:
        """Reads the file again if it is another than before. A file that cannot be used changes nothing, and is logged once."""
        version = self._version()
        if version == self._read_as:
            return
        self._read_as = version
        try:
            self._use(read_allowances(self._path))
        except InputError as error:
            log("keys not read", level=logging.ERROR, message=str(error), kept=self._holders())
        else:
            log("keys read", holders=self._holders())

    def _use(self, allowances: dict[str, Allowance]) -> None:
        """A holder that stays keeps its account, and with it what it has in progress and has spent."""
        before = {account.holder: account for account in self._accounts.values()}
        self._accounts = {}
        for holder, allowance in allowances.items():
            account = before.get(holder) or Account(holder, self._clock)
            account.max_requests = allowance.max_concurrent_requests
            account.documents_per_minute = allowance.documents_per_minute
            self._accounts |= {secret.encode(): account for secret in allowance.secrets}

    def _holders(self) -> list[str]:
        return list(dict.fromkeys(account.holder for account in self._accounts.values()))

    def _version(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(self._path)  # noqa: PTH116 - of a path that may be anything
        except (OSError, ValueError):
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def read_allowances(path: str) -> dict[str, Allowance]:
    """The tables of a file of keys by the names of the holders. Raises InputError, which shows no key."""
    allowances: dict[str, Allowance] = {}
    for holder, table in read_toml(path).items():
        if not HOLDER.fullmatch(holder):
            raise InputError(f"{path} has a table {holder!r:.80}; expected a name of at most 64 letters, digits, `.`, `_` and `-`")
        try:
            allowances[holder] = allowance = msgspec.convert(table, Allowance)
        except msgspec.ValidationError as error:
            raise InputError(
                f"{path}: {holder}: {error!s:.200}; expected a table with `key`, and limits if there are any"
            ) from error
        if not all(map(re.compile(SECRET).fullmatch, allowance.secrets)):
            raise InputError(f"{path}: {holder} has a key that no header can carry; expected printable ASCII without outer spaces")
    secrets = [secret for allowance in allowances.values() for secret in allowance.secrets]
    if not secrets:
        raise InputError(f"{path} has no keys; expected a table with `key` for each holder of keys")
    if len(set(secrets)) < len(secrets):
        twice = [holder for holder, each in allowances.items() if any(secrets.count(secret) > 1 for secret in each.secrets)]
        raise InputError(f"{path} has a key twice, in {' and '.join(twice):.200}; expected each key once")
    return allowances

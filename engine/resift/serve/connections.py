"""Connections: how many may be open, in all and by peer, and which one makes room for a new one. No network, no clock."""

from __future__ import annotations

import ipaddress
import sys
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from resift.serve.config import Config

RESERVED_FILES = 64
"""Open files that the process needs besides its connections, and those that it accepts before it closes others."""
MINIMUM = 16
"""Connections that are allowed however few files may be open."""
FEW = 8
"""Connections that any peer may have: if none has more, the one that has waited longest makes room, whoever has it."""
NETWORK_BITS = 64
"""Bits of an IPv6 address that tell peers apart: the rest are the peer's to choose."""


class Connection(Protocol):
    """What is known of a connection."""

    peer: str
    """what `peer_of` says of its address"""

    @property
    def waits_for_client(self) -> bool:
        """Whether the next step is the client's: to send a request, or the rest of one, or to take an answer."""

    def make_room(self) -> None:
        """Closes it, without waiting for the client."""


class Connections:
    """The open connections, in all and by peer. Those come first whose last answer, or whose beginning, is longest ago."""

    def __init__(self, limit: int, peer_limit: int, trusted_proxies: Sequence[str] = ()) -> None:
        """`limit`: in all; `peer_limit`: of a peer, which does not hold for the addresses and networks of `trusted_proxies`."""
        self.limit = limit
        self._peer_limit = peer_limit
        self._trusted = [ipaddress.ip_network(proxy) for proxy in trusted_proxies]
        self._all: dict[Connection, None] = {}
        self._by_peer: dict[str, dict[Connection, None]] = {}

    @property
    def count(self) -> int:
        """The number of connections."""
        return len(self._all)

    def admit(self, connection: Connection) -> bool:
        """Counts a new connection, for which another makes room if there are too many; False if none can.

        If its peer has too many, the first of them that waits for its client makes room; if there are too many in all, one that is
        `_dispensable`.
        """
        siblings = self._by_peer.get(connection.peer, {})
        is_crowd = len(siblings) >= self._peer_limit and not self._is_trusted(connection.peer)
        if is_crowd or self.count >= self.limit:
            victim = _waiting(siblings) if is_crowd else self._dispensable(len(siblings))
            if victim is None:
                return False
            self.forget(victim)
            victim.make_room()
        self._all[connection] = None
        self._by_peer.setdefault(connection.peer, {})[connection] = None
        return True

    def _dispensable(self, siblings: int) -> Connection | None:
        """The connection that makes room for one of a peer that has so many already; None if none can.

        It is the first that waits for its client of the peer that has the most, or of all if these are few: beside hostile peers of
        one connection each, an honest one of several has the most. If none waits, the newest of the peer that has the most ends
        with its request, as long as that peer still has more than the other.
        """
        crowd = max(self._by_peer.values(), key=len)
        waiting = _waiting(self._all if len(crowd) <= FEW else crowd)
        if waiting is None and len(crowd) > siblings + 1:
            return next(reversed(crowd))
        return waiting

    def answered(self, connection: Connection) -> None:
        """Puts a connection behind the others."""
        siblings = self._by_peer.get(connection.peer, {})
        if connection in siblings:
            siblings[connection] = siblings.pop(connection)
            self._all[connection] = self._all.pop(connection)

    def forget(self, connection: Connection) -> None:
        """Counts a connection no longer, if it was counted."""
        siblings = self._by_peer.get(connection.peer, {})
        siblings.pop(connection, None)
        self._all.pop(connection, None)
        if not siblings:
            self._by_peer.pop(connection.peer, None)

    def _is_trusted(self, peer: str) -> bool:
        if not self._trusted or not peer:
            return False
        network = ipaddress.ip_network(peer)
        return any(network.overlaps(proxy) for proxy in self._trusted)


def _waiting(connections: Iterable[Connection]) -> Connection | None:
    """The first connection that waits for its client."""
    return next((each for each in connections if each.waits_for_client), None)


def peer_of(host: str | None) -> str:
    """The address of a peer, or its network if it is one of IPv6; empty for what is no address, such as a Unix socket."""
    try:
        address = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.ip_network((address, NETWORK_BITS), strict=False))
        address = address.ipv4_mapped
    return str(address)


def connections_for(config: Config) -> Connections:
    """The connections that the settings allow, or fewer if the system allows fewer open files."""
    files = open_files_limit()
    limit = config.max_connections if files is None else min(config.max_connections, max(MINIMUM, files - RESERVED_FILES))
    return Connections(limit, config.max_peer_connections, config.trusted_proxy)


def open_files_limit() -> int | None:
    """The number of files that this process may have open; None if there is no limit, and on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft

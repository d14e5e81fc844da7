"""Forms: the bodies that one path answers, each an Api, told apart by their fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from resift.files.json_decoding import decode_halves

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resift.serve.api import Api

ANY = ""
"""Stands in a row of the table for a body that has none of the row's fields."""


class Forms:
    """The Apis of one path, by a field that tells each; of several such fields in a body, the first one in the row counts."""

    def __init__(self, row: Mapping[str, Api]) -> None:
        """`row`: an Api for each field, and one for ANY, which also refuses what is not JSON."""
        self.default = row[ANY]
        self.apis = tuple(dict.fromkeys(row.values()))
        """each of them once"""
        self._row = {name: api for name, api in row.items() if name != ANY}
        # Raw: the values are skipped, and decoded once, by the Api.
        self._fields = msgspec.json.Decoder(
            msgspec.defstruct("Fields", [(name, msgspec.Raw, msgspec.field(default=msgspec.UNSET)) for name in self._row])
        )

    def choose(self, content: bytes) -> Api:
        """The Api that answers a body; the default one if the body cannot be read at all."""
        if not self._row:
            return self.default
        try:
            fields = decode_halves(content, self._fields.decode)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self.default
        return next((api for name, api in self._row.items() if getattr(fields, name) is not msgspec.UNSET), self.default)

"""Forms: the bodies that one path answers, each an Api, told apart by their fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from resift.files.json_decoding import replace_halves

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

    def choose(self, content: bytes) -> tuple[Api, bytes]:
        """The Api that answers a body, and the body as `decode_halves` reads it; the default Api if it cannot be read at all."""
        if not self._row:
            return self.default, content
        try:
            fields = self._fields.decode(content)
        except msgspec.DecodeError:
            mended = replace_halves(content)
            return (self.default, content) if mended == content else self.choose(mended)
        except (UnicodeDecodeError, RecursionError):
            return self.default, content
        return next((api for name, api in self._row.items() if getattr(fields, name) is not msgspec.UNSET), self.default), content

"""Api: how one HTTP format is read into a Request, and answers and refusals are written in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from resift.serve.request import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resift.ranking import RankedDocument
    from resift.serve.request import Answer, Reason, Request

Milliseconds = Annotated[float, msgspec.Meta(gt=0)]


class Extensions(msgspec.Struct, kw_only=True):
    """Fields of resift's own, which every format takes."""

    return_tokens_cut: bool = False
    """each result says how many of its tokens were cut"""
    plan: str | None = None
    """how the documents are worked through: full, fast, balanced, or stages such as first-look:15,full"""
    budget_ms: Milliseconds | None = None
    """milliseconds, from when the body was read, after which the answer is what was read by then"""

    def marks(self, result: RankedDocument) -> dict[str, Any]:
        """A result's own fields of these extensions; None where they were not asked for, or no graph read it."""
        names_graph = self.plan is not None or self.budget_ms is not None
        return {
            "tokens_cut": result.tokens_cut if self.return_tokens_cut else None,
            "scored_by": result.scored_by if names_graph else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """One HTTP format. `body`, `reply` and `error` are types that msgspec decodes and encodes, and OpenAPI describes."""

    name: str
    """in metrics and logs"""
    path: str
    summary: str
    body: type[msgspec.Struct]
    reply: Any
    error: type[msgspec.Struct]
    read: Callable[[Any], Request]
    """from a `body`; raises Refusal"""
    write: Callable[[Any, Answer], Any]
    """from the `body` and its answer to a `reply`"""
    refuse: Callable[[Refusal, str], Any]
    """from a refusal and the request's id to an `error`"""
    statuses: Mapping[Reason, int]
    example: dict[str, Any]
    """a body that works"""
    _decoder: msgspec.json.Decoder[Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_decoder", msgspec.json.Decoder(self.body))

    def decode(self, content: bytes) -> Any:
        """A `body` from JSON. Of a key that occurs twice the last counts. Raises Refusal."""
        try:
            content.decode()  # msgspec does not look into strings that it skips
            return self._decoder.decode(content)
        except UnicodeDecodeError as error:
            raise Refusal("syntax", f"the body is not UTF-8: byte {error.object[error.start]:#x} at {error.start}") from error
        except msgspec.ValidationError as error:
            raise Refusal("invalid", str(error)) from error
        except msgspec.DecodeError as error:
            raise Refusal("syntax", f"the body is not valid JSON: {error}") from error
        except RecursionError as error:
            raise Refusal("syntax", "the body is nested too deeply") from error


def check_query(query: str) -> None:
    """Raises Refusal for an empty query."""
    if not query:
        raise Refusal("invalid", "`query` is empty; expected text to rank the documents for")

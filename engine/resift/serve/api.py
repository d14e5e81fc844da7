"""Api: one HTTP format. It reads a body into RankingRequests, and writes their RankingResults or a Refusal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from resift.files.json_decoding import decode_halves, json_fault
from resift.serve.request import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from resift.documents import DocumentTemplate
    from resift.ranking import RankedDocument
    from resift.serve.request import RankingRequest, RankingResult, Reason

Milliseconds = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Name = Annotated[str, msgspec.Meta(max_length=200)]
"""Of a model or a field."""
PlanText = Annotated[str, msgspec.Meta(max_length=500)]


class Extensions(msgspec.Struct, kw_only=True):
    """Fields that resift adds to every format of rankings."""

    return_tokens_cut: bool = False
    """each result says how many of its tokens were cut"""
    plan: PlanText | None = None
    """the cascade that scores the documents: full, fast, balanced, or stages such as first-look:15,full"""
    budget_ms: Milliseconds | None = None
    """milliseconds, from when the body was read, after which the ranking is returned with the scores that exist by then"""
    threshold: Probability | None = None
    """only documents whose probability of relevance is that or more; needs a calibration in the server's settings"""

    def result_fields(self, result: RankedDocument) -> dict[str, Any]:
        """The values of the extensions' fields in a result; None if they were not requested, or do not exist."""
        names_graph = self.plan is not None or self.budget_ms is not None
        return {
            "tokens_cut": result.tokens_cut if self.return_tokens_cut else None,
            "scored_by": result.scored_by if names_graph else None,
            "probability": result.probability,
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Api:
    """One HTTP format. msgspec decodes and encodes the types `body`, `reply` and `error`, and OpenAPI describes them."""

    name: str
    """its name in metrics and logs"""
    summary: str
    body: type[msgspec.Struct]
    reply: Any
    error: type[msgspec.Struct]
    count: Callable[[Any], int]
    """how many documents a `body` has, before any of them is read"""
    read: Callable[[Any, DocumentTemplate], Sequence[RankingRequest]]
    """makes the requests, one for each query, from a `body`; the template says what is read of documents that are objects; raises
    Refusal"""
    write: Callable[[Any, Sequence[RankingResult]], Any]
    """makes the `reply` from the `body` and the results of its requests"""
    refuse: Callable[[Refusal, str], Any]
    """makes the `error` from a refusal and the request's id"""
    statuses: Mapping[Reason, int]
    example: dict[str, Any]
    """a body that works"""
    strict: bool = False
    """whether a number or a boolean may not be given as text, as in "top_n": "2" """
    _decoder: msgspec.json.Decoder[Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_decoder", msgspec.json.Decoder(self.body, strict=self.strict))

    def decode(self, content: bytes) -> Any:
        """A `body` from JSON, read as by `decode_halves`. If a key occurs twice, the last value counts. Raises Refusal."""
        try:
            content.decode()  # msgspec does not check strings that it skips
            return decode_halves(content, self._decoder.decode)
        except UnicodeDecodeError as error:
            raise Refusal("syntax", f"the body is not UTF-8: byte {error.object[error.start]:#x} at {error.start}") from error
        except msgspec.ValidationError as error:
            raise Refusal("invalid", str(error)) from error
        except msgspec.DecodeError as error:
            raise Refusal("syntax", f"the body is not valid JSON: {json_fault(content, str(error)) or error}") from error
        except RecursionError as error:
            raise Refusal("syntax", "the body is nested too deeply") from error


def check_query(query: str) -> None:
    """Raises Refusal for an empty query."""
    if not query:
        raise Refusal("invalid", "`query` is empty; expected text to rank the documents for")

"""Claims: what a GPU has to show, and whether the figures of a run show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

CANDIDATES = 50
LEAST_RATIO = 2.0
"""How many times faster than sentence-transformers in float16."""
LONGEST_MS = 10.0
"""For CANDIDATES, on a chip of the class of NVIDIA's H200."""
LARGEST_NDCG_CHANGE = 0.002
"""Between resift in float16 and PyTorch in float32."""


def claims(found: dict[str, Any]) -> list[str]:
    """A line for each claim: that it holds, that it does not, or that it was not measured; with the figures."""
    fault = found["agreement"]["fault"]
    lines = [f"the certificate's bounds: {'hold' if fault is None else f'do not hold: {fault}'}"]
    lines.append(f"padding is left out: {'yes' if found['is_packed'] else 'no'}")
    lines += list(_quality(found.get("ndcg", {}))) or [f"nDCG@10 within {LARGEST_NDCG_CHANGE} of float32: not measured"]
    lines += list(_speed(found["cells"])) or [f"times of {CANDIDATES} candidates: not measured"]
    return [*lines, *(f"{name}: left out, {reason}" for name, reason in found.get("left_out", {}).items())]


def _quality(ndcg: dict[str, Any]) -> Iterator[str]:
    for file, measured in ndcg.items():
        means = measured["mean"]
        exact = next((value for name, value in means.items() if name.endswith("float32")), None)
        if exact is None or "resift float16" not in means:
            continue
        change = abs(means["resift float16"] - exact)
        holds = _holds(change <= LARGEST_NDCG_CHANGE)
        yield (
            f"nDCG@10 on {measured['pools']} of {measured['of']} pools of {file} within {LARGEST_NDCG_CHANGE} of float32: {holds}, "
            f"{means['resift float16']:.4f} and {exact:.4f}"
        )


def _speed(cells: list[dict[str, Any]]) -> Iterator[str]:
    for cell in cells:
        if cell["candidates"] != CANDIDATES or "rows" not in cell:
            continue
        rows = {row["system"]: row for row in cell["rows"]}
        pool = f"{CANDIDATES} candidates of {'up to ' if cell['mixed'] else ''}{cell['tokens']} tokens"
        p50 = rows["resift float16"]["p50_ms"]
        yield f"{pool} within {LONGEST_MS:.0f} ms: {_holds(p50 <= LONGEST_MS)}, {p50:.2f} ms"
        for name, row in rows.items():
            if name.endswith(" float16") and not name.startswith("resift"):
                ratio = row["times_slower"]
                yield f"{pool}, {LEAST_RATIO:.0f} times as fast as {name}: {_holds(ratio >= LEAST_RATIO)}, {ratio:.2f} times"


def _holds(is_so: bool) -> str:  # noqa: FBT001 - it is what is said
    return "holds" if is_so else "does not hold"

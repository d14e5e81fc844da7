"""Formats numbers and texts for the report."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from resift.files.escapes import visible

if TYPE_CHECKING:
    from resift.evaluate.results import Difference

MINUS, THIN, SPACE = "\N{MINUS SIGN}", "\N{NARROW NO-BREAK SPACE}", "\N{NO-BREAK SPACE}"

MEASURES = {
    r"nDCG@(\d+)": "how good the first {} are, better grades and earlier places counting more; 1 is the best order possible",
    r"P@1": "share of queries whose first document is relevant",
    r"P@(\d+)": "share of the first {} documents that is relevant",
    r"RR(@\d+)?": "1 divided by the place of the first relevant document: 1 if it comes first, 0.5 if second",
    r"M?AP(@\d+)?": "precision averaged over the places of the relevant documents",
    r"R@(\d+)": "share of all relevant documents that are among the first {}",
    r"Success@(\d+)": "share of queries with a relevant document among the first {}",
}
"""Explanations of measures, by their names in ir-measures (https://ir-measur.es/en/latest/measures.html)."""


SHARES = re.compile(r"(nDCG|P|RR|M?AP|R|Success|Rprec|ERR|RBP|Judged|Bpref|infAP|IPrec|Set(P|R|F|AP))\b")
"""Beginnings of the names of measures from 0 to 1."""


def bounds(measure: str) -> tuple[float, float]:
    """The lowest and the highest value that a measure can have; infinite if that is not known."""
    return (0.0, 1.0) if SHARES.match(measure) else (-math.inf, math.inf)


def meaning(measure: str) -> str | None:
    """A measure's explanation in plain words; None if MEASURES has none for it."""
    for pattern, words in MEASURES.items():
        if found := re.fullmatch(pattern, measure):
            return words.format(*found.groups())
    return None


def value(number: float, digits: int = 4) -> str:
    """A measure: 0.7252."""
    return f"{number:.{digits}f}".replace("-", MINUS)


def signed(number: float) -> str:
    """A difference with its sign: +0.0036; a difference that rounds to zero is 0.0000."""
    text = f"{number:+.4f}"
    return "0.0000" if float(text) == 0 else text.replace("-", MINUS)


def interval(difference: Difference) -> str:
    """The ends of an interval: +0.0036 to +0.0150."""
    return f"{signed(difference.low)} to {signed(difference.high)}"


def p_value(number: float) -> str:
    """A p-value with a comparison sign: p = 0.012."""
    return f"p{SPACE}<{SPACE}0.001" if number < 0.001 else f"p{SPACE}={SPACE}{number:.3f}"


def milliseconds(number: float) -> str:
    """A time with three significant digits or in whole milliseconds; from 10 s on, in seconds: 4.25 ms, 431 ms, 12.3 s."""
    if number >= 10_000:
        return f"{count(number / 1000) if number >= 1e6 else format(number / 1000, '.1f')}{THIN}s"
    digits = 0 if number >= 100 else 1 if number >= 10 else 2
    return f"{number:,.{digits}f}{THIN}ms"


def count(number: float) -> str:
    """A count with separated thousands: 4,300."""
    return f"{round(number):,}"


def many(number: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun: 1 query, 43 queries."""
    return f"{count(number)} {noun if number == 1 else plural or noun + 's'}"


def percent(share: float) -> str:
    """A share: 62 %, 0.4 %, less than 0.1 %."""
    if 0 < share < 0.001:
        return f"less than 0.1{THIN}%"
    near = share < 0.1 or (share > 0.99 and share < 1)
    digits = 1 if near and not math.isclose(share * 100, round(share * 100)) else 0
    return f"{min(share * 100, 99.9) if share < 1 else share * 100:.{digits}f}{THIN}%"


def axis(number: float) -> str:
    """A number on an axis, as short as possible: 0.5, 20, 1,000."""
    return f"{number:,g}".replace("-", MINUS)


def text(content: str, limit: int = 200) -> str:
    r"""`content` as one line of at most `limit` characters; what could reorder or hide text becomes an escape such as \u202e."""
    line = " ".join(content[: 2 * limit].split())
    if len(content) <= 2 * limit and len(line) <= limit:
        return visible(line)
    return f"{visible(line[:limit])} …"


def sentence(content: str) -> str:
    """`content` as `text` gives it, with a capital letter and a full stop."""
    line = text(content, 1000)
    return f"{line[:1].upper()}{line[1:]}{'' if line.endswith(('.', '!', '?', '…')) else '.'}"


def brief(content: str, limit: int = 30) -> str:
    """A name that fits into a figure; a long name is shortened in the middle, where names differ least."""
    line = re.sub("[\ufffe\uffff]", "\ufffd", text(content, 1000))  # these are not allowed in XML
    if len(line) <= limit:
        return line
    return f"{line[: limit // 2]}…{line[-(limit - limit // 2 - 1) :]}"

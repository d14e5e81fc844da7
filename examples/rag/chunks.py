"""Documents to chunks: one for each section of a Markdown file, more where it is long."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

CHUNK = 1000
"""Most characters of a chunk's text: the embedder reads 256 tokens."""


@dataclass(frozen=True)
class Chunk:
    """A piece of a document."""

    section: str
    """where it comes from: FILE#HEADING, without the file's suffix"""
    text: str
    """title, heading and text: what is embedded, searched, reranked and shown to the language model"""


def read_corpus(folder: Path) -> list[Chunk]:
    """The chunks of all Markdown files below `folder`, in order of their paths."""
    chunks = []
    for path in sorted(folder.rglob("*.md")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        try:
            chunks += split(name, path.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError as error:
            raise SystemExit(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): convert it") from error
    if not chunks:
        raise SystemExit(f"{folder} holds no Markdown file with text; expected at least one *.md")
    return chunks


def split(name: str, text: str) -> Iterator[Chunk]:
    """One chunk for each section of a file, more for a section longer than CHUNK."""
    title = next((line[2:].strip() for line in text.splitlines() if line.startswith("# ")), name)
    seen = Counter[str]()
    for heading, body in sections(text):
        section = name if heading is None else f"{name}#{slug(heading)}"
        seen[section] += 1
        if seen[section] > 1:  # as on GitHub, a heading's second occurrence is told apart by a number
            section += f"-{seen[section] - 1}"
        label = title if heading is None else f"{title}: {heading}"
        for part in pack(re.split(r"\n\s*\n", body)):
            yield Chunk(section, f"{label}\n{part}")


def sections(text: str) -> Iterator[tuple[str | None, str]]:
    """(heading, text below it) of each section with text; the text before the first one has no heading. The title is left out."""
    heading, lines, in_code = None, list[str](), False
    for line in text.splitlines():
        in_code ^= line.lstrip().startswith(("```", "~~~"))
        found = None if in_code else re.match(r"(#{1,6})\s+(.*)", line)
        if found is None:
            lines.append(line)
        elif len(found[1]) > 1:
            yield heading, "\n".join(lines)
            heading, lines = found[2].strip(), []
    yield heading, "\n".join(lines)


def slug(heading: str) -> str:
    """A heading as the part of an address after the #."""
    return re.sub(r"\W+", "-", heading.lower()).strip("-")


def pack(paragraphs: Iterable[str]) -> Iterator[str]:
    """Joins paragraphs to texts of at most CHUNK characters; a paragraph that is longer is cut, between words where it has any."""
    packed = ""
    for paragraph in filter(str.strip, paragraphs):
        for piece in [paragraph.strip()] if len(paragraph) <= CHUNK else textwrap.wrap(paragraph, CHUNK):
            if packed and len(packed) + len(piece) + 2 > CHUNK:
                yield packed
                packed = ""
            packed += f"\n\n{piece}" if packed else piece
    if packed:
        yield packed

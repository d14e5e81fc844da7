"""Prompt: what the endpoint is asked for, and the questions in its answer."""

from __future__ import annotations

import re
from typing import Any

from resift.files.json_decoding import decode_json
from resift.retrieval.words import key_of

INSTRUCTION = """\
You write search queries. You get a passage, and write {count} different questions that the passage answers, as a person who has
never seen it would type them into a search engine. Write in the language of the passage. Each question names what it is about, so
that it is understood without the passage: it never speaks of "the passage", "the text" or "the author". It does not repeat whole
sentences of the passage. Answer with JSON only: {{"questions": ["...", "..."]}}"""
LONGEST = 400
"""Maximum number of characters of a question."""
MARK = re.compile(r"^\s*(?:[-*•]|\(?\d{1,2}[.):]|Q\d*[.:])\s*", re.IGNORECASE)
"""What stands before an item of a list."""
OBJECT = re.compile(r"\{.*\}|\[.*\]", re.DOTALL)
QUESTION_MARKS = ("?", "\uff1f", "\u061f", "\u037e", ";")
"""Ends of questions in Latin, Chinese, Arabic and Greek script."""


def messages(text: str, count: int, characters: int) -> list[dict[str, str]]:
    """The messages that ask for `count` questions on a text, of which the first `characters` are sent."""
    instruction = " ".join(INSTRUCTION.format(count=count).split())
    return [{"role": "system", "content": instruction}, {"role": "user", "content": text[:characters]}]


def questions_of(answer: str, count: int, text: str) -> list[str]:
    """The first `count` different questions of an answer: JSON, or else its lines that end with a question mark.

    Left out are empty ones, those that are too long, and those that are the text itself.
    """
    found: dict[str, str] = {}
    for item in _items(answer):
        question = " ".join(MARK.sub("", item).split()).strip("\"'“”„« »")
        key = key_of(question)
        if key and len(question) <= LONGEST and key != key_of(text):
            found.setdefault(key, question)
    return list(found.values())[:count]


def _items(answer: str) -> list[str]:
    for candidate in (answer, *OBJECT.findall(answer)):
        try:
            decoded = decode_json(candidate.encode(errors="replace"))
        except ValueError:
            continue
        if (strings := _strings(decoded)) is not None:
            return strings
    return [line for line in answer.splitlines() if line.strip().rstrip("\"'”»").endswith(QUESTION_MARKS)]


def _strings(decoded: Any) -> list[str] | None:
    """The texts of {"questions": [...]} or of a list of texts or of {"question": ...}; None for anything else."""
    items = decoded.get("questions", decoded.get("question")) if isinstance(decoded, dict) else decoded
    if isinstance(items, str):
        return [items]
    if not isinstance(items, list):
        return None
    texts = [item.get("question", item.get("query")) if isinstance(item, dict) else item for item in items]
    return [text for text in texts if isinstance(text, str)]

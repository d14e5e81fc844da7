"""Prints the sections of a folder's Markdown and text files as a corpus, JSON Lines of {"docid", "text"}.

python examples/own-model/corpus.py FOLDER > corpus.jsonl
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

SHORTEST = 40
"""Characters: a section of fewer answers nothing."""


def main() -> None:
    """Reads the folder that the command line names."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    count = 0
    for path in sorted(path for path in Path(sys.argv[1]).rglob("*") if path.suffix in (".md", ".txt")):
        title, _, rest = path.read_text(encoding="utf-8").partition("\n")
        for number, section in enumerate(re.split(r"(?m)^#+ ", rest)):
            if len(section.strip()) >= SHORTEST:
                text = f"{title.lstrip('# ')}: {section.strip()}"
                print(json.dumps({"docid": f"{path.stem}-{number}", "text": text}, ensure_ascii=False))
                count += 1
    if not count:
        raise SystemExit(f"{sys.argv[1]} has no .md or .txt file with a section of {SHORTEST} characters or more")


if __name__ == "__main__":
    main()

"""Source: candidate pools from any of the forms in which people have them, recognized by name and content."""

from __future__ import annotations

import os
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from resift.documents import DocumentTemplate
from resift.errors import InputError
from resift.pools.beir import Texts
from resift.pools.parquet import ParquetPools
from resift.pools.reading import Lines, blank_and_first, decode_pool
from resift.pools.runs import run_pools
from resift.pools.tables import Item, check_columns, pools_of, read_table, table_form
from resift.pools.trec import is_run_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resift.pools.reading import CandidatePool
    from resift.settings import Settings

    PathLike = str | os.PathLike[str]
    Form = Literal["jsonl", "csv", "tsv", "parquet", "run"]

FORMS = (
    'candidate pools as JSON Lines ({"qid", "query", "candidates": [{"docid", "text"}]} a line), a table with a row for each '
    "pair (.csv, .tsv or .parquet), a TREC run ('qid Q0 docid rank score tag' a line) with its texts and queries, or a BEIR "
    "folder with a run"
)


class Source:
    """The pools of an input, in order and as a stream, each read once.

    `form` is "parquet" for a name that ends in .parquet; "jsonl" where the first line begins with {; "csv" or "tsv" for a name that
    ends so, perhaps with .gz behind; "run" where the first line is one of a TREC run, or for a folder with a run; or else "jsonl",
    whose errors say what was expected.
    """

    def __init__(  # noqa: PLR0913 - the files of a run, and how to read them
        self,
        path: PathLike,
        *,
        run: PathLike | None = None,
        texts: PathLike | None = None,
        queries: PathLike | None = None,
        depth: int | None = None,
        template: DocumentTemplate | None = None,
    ) -> None:
        """Opens the input and reads its first line.

        `run`: the TREC run of a BEIR folder's documents. `texts`, `queries`: the files of a run's texts, as in a BEIR folder.
        `depth`: how many documents of a query are read of a run; None: all. `template`: what the model reads of a candidate with
        fields; None: its text, and in BEIR's corpora its title and its text. Raises InputError for an input that cannot be read or
        a `run` that does not belong to it; ExtraError for Parquet without pyarrow.
        """
        name = os.fspath(path)
        files = None if texts is None or queries is None else Texts(texts, queries)
        if os.path.isdir(name):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
            files = Texts.find(Path(name))
            if files is None:
                raise InputError(f"{name} cannot be read: a folder without corpus.jsonl or queries.jsonl; expected {FORMS}")
            if run is None:
                raise InputError(f"{name} is a BEIR folder, whose candidates come from a retriever; name its TREC run: --run FILE")
            name = os.fspath(run)
        elif run is not None:
            raise InputError(f"--run is for a BEIR folder, but {name} is none; a run itself goes where {name} is")
        self.name = name
        """the file that names the candidates: the input, or the run of a folder"""
        self._files, self._texts, self._queries, self._depth, self._template = files, texts, queries, depth, template
        self._is_folder = run is not None
        self._parquet = ParquetPools(name, template) if name.endswith(".parquet") else None
        self._file = Lines(name)
        self._open_lines = self._file.every()
        self._start = [] if self._parquet else blank_and_first(self._open_lines)
        self.form = self._form(is_run=run is not None)
        named = (path, run, texts, queries, *([files.corpus, files.queries] if files else []))
        self.inputs = {os.fspath(file) for file in named if file is not None}
        """every file and folder that is read"""

    @property
    def first(self) -> tuple[int, bytes] | None:
        """The number and content of the first line that is not blank; None if there is none, and for Parquet."""
        return self._start[-1] if self._start and self._start[-1][1].strip() else None

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Number and content of every line that is not blank."""
        return ((number, line) for number, line in chain(self._start, self._open_lines) if line.strip())

    def check(self) -> None:
        """Raises InputError if the texts of a run are not named, or those of another form are."""
        texts = {"texts": self._texts, "queries": self._queries}
        is_file_of_run = self.form == "run" and not self._is_folder
        if is_file_of_run and self._files is None:
            missing = " and ".join(f"--{name} FILE" for name, value in texts.items() if value is None)
            raise InputError(f"{self.name} is a TREC run, which holds no texts; name them: {missing}")
        if self.form == "run" and self.name == "-":
            raise InputError("a TREC run is read twice and cannot come from standard input; name a file")
        unusable = [f"--{name}" for name, value in texts.items() if value is not None]
        if unusable and not is_file_of_run:
            raise InputError(f"{self.name} is no TREC run; {' and '.join(unusable)} cannot be used with it")

    def __iter__(self) -> Iterator[Item]:
        """Every pool, and every line or row that cannot be used, of those forms whose lines do not depend on each other.

        Raises InputError where reading cannot go on, such as for a bad line of a run.
        """
        if self._parquet:
            return iter(self._parquet)
        if self.form in ("csv", "tsv"):
            check = partial(check_columns, template=self._template)
            rows = read_table(chain(self._start, self._open_lines), self.name, is_tsv=self.form == "tsv", check=check)
            return pools_of(rows, self._template)
        if self.form == "run":
            assert self._files, "call check first"
            return run_pools(self.name, self.lines(), self._files, self._depth, self._template)
        return self._json_pools()

    def checked(self) -> Iterator[tuple[int, str, bytes, CandidatePool]]:
        """Every pool, as an Item. Raises InputError that names file and line for the first that cannot be used."""
        for number, where, content, pool in self:
            if isinstance(pool, InputError):
                raise pool
            yield number, where, content, pool

    def share(self) -> float | None:
        """Share of the input that has been read, 0 to 1; None if its size is unknown."""
        return self._parquet.share() if self._parquet else self._file.share()

    def close(self) -> None:
        """Closes the input, even if it was not read to its end."""
        self._open_lines.close()
        if self._parquet:
            self._parquet.close()

    def _form(self, *, is_run: bool) -> Form:
        if self._parquet:
            return "parquet"
        first = self.first[1] if self.first else b""
        if is_run or is_run_line(first):
            return "run"
        return table_form(self.name, first) or "jsonl"

    def _json_pools(self) -> Iterator[Item]:
        for number, line in self.lines():
            where = f"{self.name}, line {number}"
            try:
                yield Item(number, where, line, decode_pool(line, where, self._template))
            except InputError as error:
                yield Item(number, where, line, error)


def template_of(settings: Settings) -> DocumentTemplate | None:
    """What the model reads of a candidate with fields; None: its text, and in BEIR's corpora its title and its text."""
    return None if settings.document_template == "auto" else DocumentTemplate.parse(settings.document_template)


def read_pools(path: PathLike, template: DocumentTemplate | None = None) -> Iterator[CandidatePool]:
    """The pools of JSON Lines, CSV, TSV or Parquet, recognized as by `Source`.

    `template`: what the model reads of a candidate with fields; None: its text. Raises InputError that names the file and the line
    or row for anything else.
    """
    with closing(Source(path, template=template)) as source:
        source.check()
        for _, _, _, pool in source.checked():
            yield pool

"""The README and the pages of docs/: their code runs, in order and as it is shown; their links lead somewhere.

A block is marked by comments directly above it, which a reader does not see:

    <!-- not run: WHY -->             it is not run, which is allowed for one block in twenty
    <!-- needs: MODULE, MODULE -->    it is skipped where these cannot be imported; .ci/full has environments with them
    <!-- file: NAME -->               it is a file of that name in the reader's folder
    <!-- output -->                   it is what the block before it prints
    <!-- background -->               it is a server, which runs until the next one or the page's end
    <!-- may exit with 3 -->          it is a check, which may fail with this exit code
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import socket
import tomllib

import pytest

from tests.support import tiny, trainings
from tests.support.pages import INSTALLATION, PAGES, REPOSITORY, SITE, Block, Reader, blocks_of

PAGES_BY_NAME = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
LANGUAGES = {"python", "sh", "json", "toml", "text"}
INSTALLATIONS = [block for block in BLOCKS if block.language == "sh" and not INSTALLATION.sub("", block.code).strip()]
"""Those that install and do no more: `test_what_is_installed_exists` reads them."""
RUN = [
    block for block in BLOCKS if block.language in ("python", "sh") and "not run" not in block.notes and block not in INSTALLATIONS
]
SHOWN = [block for block in BLOCKS if "file" in block.notes or "output" in block.notes]
LINK = re.compile(r"!?\[[^\]\n]*\]\(([^)\s]+)\)")


# What a reader has at hand beside what the page shows


def pools(count=8, documents=6, start=0):
    """Labelled pools: some of the gate's, with their documents cut short."""
    rows = [json.loads(line) for line in (tiny.TEXTS / "gate.jsonl").read_text().splitlines()[start : start + count]]
    for row in rows:
        row["candidates"] = [
            {**candidate, "text": " ".join(candidate["text"].split()[:12])} for candidate in row["candidates"][:documents]
        ]
    return rows


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_pools(path, request):
    content = lines(pools()).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_other_pools(path, request):
    path.write_text(lines(pools(start=20)))


def write_gate(path, request):
    path.write_text(lines(pools(count=30, documents=10)))


def write_pairs(path, request):
    """Calibration pairs: the built-in ones, of which an export needs a hundred."""
    path.write_text((tiny.TEXTS / "calibration.jsonl").read_text(encoding="utf-8"), encoding="utf-8")


def write_many_pools(path, request):
    """Short pools of as many queries as there are."""
    path.write_bytes(gzip.compress(lines(pools(count=100)).encode()))


def write_large_pools(path, request):
    """Two labelled pools of 51 short candidates, most of them from other pools: the frontier needs more than 50."""
    first, second, *others = pools(count=7, documents=10)
    unrelated = [{**candidate, "label": 0} for row in others for candidate in row["candidates"]]
    large = [{**row, "candidates": [*row["candidates"], *unrelated][:51]} for row in (first, second)]
    for candidate in (candidate for row in large for candidate in row["candidates"]):
        candidate["text"] = " ".join(candidate["text"].split()[:4])
    path.write_bytes(gzip.compress(lines(large).encode()))


def write_run(path, request):
    """A TREC run in which the last candidate is the best."""
    rows = [
        f"{row['qid']} Q0 {candidate['docid']} {len(row['candidates']) - place} {place} other\n"
        for row in pools()
        for place, candidate in enumerate(row["candidates"])
    ]
    path.write_text("".join(rows))


def write_beir(path, request):
    (path / "qrels").mkdir(parents=True)
    rows = pools()
    found = [(row, candidate) for row in rows for candidate in row["candidates"]]
    (path / "corpus.jsonl").write_text(lines({"_id": c["docid"], "title": "", "text": c["text"]} for _, c in found))
    (path / "queries.jsonl").write_text(lines({"_id": row["qid"], "text": row["query"]} for row in rows))
    judged = "".join(f"{row['qid']}\t{c['docid']}\t{c['label']}\n" for row, c in found)
    (path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)


def write_parquet(path, request):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"query": row["query"], "documents": [candidate["text"] for candidate in row["candidates"]]} for row in pools()]
    if not path.suffix:
        path.mkdir()
        path /= "part.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_training_pairs(path, request):
    path.write_bytes(gzip.compress(lines(trainings.known_rows(60)).encode()))


def copy_artifact(path, request):
    shutil.copytree(request.getfixturevalue("artifact"), path)


def copy_split_artifact(path, request):
    shutil.copytree(request.getfixturevalue("split_artifact"), path)


def write_corpus(path, request):
    path.write_text(
        lines({"id": candidate["docid"], "text": candidate["text"]} for row in pools() for candidate in row["candidates"])
    )


def copy_checkpoint(path, request):
    shutil.copytree(request.getfixturevalue("checkpoint_of")("bert"), path)


def copy_deeper_checkpoint(path, request):
    """One of which the checkpoint of `copy_checkpoint` is a student."""
    shutil.copytree(request.getfixturevalue("deeper"), path)


AT_HAND = {
    "collections.md": {"pools.parquet": write_parquet, "pools": write_parquet},
    "server.md": {"small": copy_artifact, "large": copy_artifact},
    "plans-and-budgets.md": {
        "pools.jsonl.gz": write_pools,
        "my-cross-encoder": copy_deeper_checkpoint,
        "my-student": copy_checkpoint,
        "gate.jsonl": write_gate,
        "pools.jsonl": write_pools,
    },
    "measurements.md": {
        "dl19.jsonl.gz": write_large_pools,
        "nq_utd.jsonl.gz": write_large_pools,
        "wikiqa_dev.jsonl.gz": write_large_pools,
        "ARTIFACT": copy_artifact,
    },
    "evaluation.md": {
        "pools.jsonl.gz": write_pools,
        "my-artifact": copy_artifact,
        "my-cross-encoder": copy_checkpoint,
        "other-engine.trec": write_run,
        "scifact": write_beir,
    },
    "tuning.md": {"pools.jsonl.gz": write_pools},
    "prepared-documents.md": {
        "my-artifact": copy_split_artifact,
        "corpus.jsonl": write_corpus,
        "pools.jsonl.gz": write_pools,
    },
    "calibration.md": {"pools.jsonl.gz": write_many_pools},
    "choose-a-model.md": {
        "my-cross-encoder": copy_checkpoint,
        "gate.jsonl": write_gate,
        "my-pools.jsonl": write_gate,
        "my-pairs.jsonl": write_pairs,
    },
    "artifacts-and-export.md": {"my-cross-encoder": copy_checkpoint, "gate.jsonl": write_gate},
    "own-data.md": {"my-cross-encoder": copy_checkpoint, "my-pairs.jsonl.gz": write_training_pairs},
    "own-reranker.md": {
        "my-cross-encoder": copy_checkpoint,
        "pools.jsonl.gz": write_pools,
        "test-pools.jsonl": write_other_pools,
        "gate.jsonl": write_gate,
        "FILE": write_pools,
        "narrow-artifact": copy_artifact,
    },
}
"""Files by page, written when the first block that names one is followed."""


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """readers(page): the one reader of that page."""
    found: dict[str, Reader] = {}

    def reader(page: str) -> Reader:
        if page not in found:
            folder = tmp_path_factory.mktemp(page.removesuffix(".md"))
            # The RAG example writes its index next to itself.
            shutil.copytree(REPOSITORY / "examples", folder / "examples", ignore=shutil.ignore_patterns(".*"))
            for name in ("benchmarks", "docs"):
                (folder / name).symlink_to(REPOSITORY / name)
            found[page] = Reader(folder)
        return found[page]

    yield reader
    for each in found.values():
        each.close()


@pytest.fixture
def alone(monkeypatch):
    """No connection leaves this machine."""
    connect = socket.socket.connect

    def local(self, address):
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "localhost", "::1"), f"a connection to {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


def missing(block: Block) -> str:
    """The first module or program that the block needs and this environment has not, or ''."""
    if block.language == "sh" and re.search(r"\bcurl\b", block.code) and not shutil.which("curl"):
        return "curl"
    for name in filter(None, block.notes.get("needs", "").split(", ")):
        try:
            __import__(name)
        except ImportError:
            return name
    return ""


SLOW = ("own-reranker.md", "measurements.md")
"""Pages whose commands train or measure for long."""


@pytest.mark.parametrize(
    "block", [pytest.param(each, marks=pytest.mark.slow if each.page in SLOW else (), id=str(each)) for each in [*RUN, *SHOWN]]
)
def test_a_block_does_what_the_page_says(block, readers, request, alone):
    reader = readers(block.page)
    for each in (each for each in BLOCKS if each.page == block.page and each.line <= block.line):
        if each not in RUN and each not in SHOWN:
            continue
        if name := missing(each):
            if each is block:
                pytest.skip(f"needs {name}")
            continue
        for file, write in AT_HAND.get(each.page, {}).items():
            if re.search(rf"(?<![\w.-]){re.escape(file)}(?![\w.-])", each.code) or (file == "gate.jsonl" and "export" in each.code):
                path = reader.folder / file
                if not path.exists():
                    write(path, request)
        reader.follow(each)


# What is not run


def test_blocks_are_of_known_languages():
    assert [str(block) for block in BLOCKS if block.language not in LANGUAGES] == []


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language in ("json", "toml")], ids=str)
def test_data_can_be_read(block):
    if block.language == "toml":
        assert tomllib.loads(block.code)
    else:
        assert all(json.loads(line) for line in block.code.splitlines())


def test_what_is_not_run_has_a_reason_and_is_little():
    reasons = [block.notes["not run"] for block in BLOCKS if "not run" in block.notes]
    assert all(len(reason) > 20 for reason in reasons)
    assert len(reasons) <= len(BLOCKS) / 20


def test_what_is_installed_exists():
    """The extras, constraints and requirements that the pages name, in code and in their text."""
    extras = set(tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for page in PAGES:
        text = PAGES_BY_NAME[page.name]
        named = [name for found in re.findall(r"(?:resift|\.)\[([a-z, -]+)\]'", text) for name in re.split(", *", found)]
        assert set(named) <= extras, page.name
        for arguments in INSTALLATION.findall("\n".join(block.code for block in blocks_of(page))):
            for file in re.findall(r"-[cr] (\S+)", arguments):
                assert (REPOSITORY / file).is_file(), f"{page.name}: {file}"


def test_another_onnxruntime_is_had_by_the_commands_that_its_errors_name():
    from resift.runtime.wheels import exchange

    page = next(page for page in PAGES if page.name == "platforms.md")
    (block,) = [block for block in blocks_of(page) if block.language == "sh"]
    assert ", then ".join(block.code.splitlines()[1:]) == exchange("onnxruntime-gpu")


def test_options_of_commands_exist():
    """Every option that a page names, in code and in its text, is one of `resift`, or of another program that it names."""
    from resift.cli.main import parser

    root = parser()
    commands = next(action for action in root._actions if action.choices).choices
    nested = [each for command in commands.values() for each in subcommands(command)]
    known = {option for command in (root, *commands.values(), *nested) for option in command._option_string_actions}
    for page in PAGES:
        text = re.sub(r"(?m)^python -m .*$", "", PAGES_BY_NAME[page.name])
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
        assert named <= known | OF_OTHERS, page.name


def subcommands(command):
    return (
        [each for action in command._subparsers._group_actions for each in action.choices.values()] if command._subparsers else []
    )


def test_benchmarks_exist():
    named = {name for page in PAGES for name in re.findall(r"python -m\s+benchmarks[ .]([a-z_]+)", PAGES_BY_NAME[page.name])}
    assert len(named) > 5
    for name in named:
        path = REPOSITORY / "benchmarks" / name
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), name


OF_OTHERS = {
    "--addresses",
    "--against",
    "--app-dir",
    "--build",
    "--further",
    "--material",
    "--minutes",
    "--pools",
    "--prepare",
    "--checkpoint",
    "--preload",
    "--stop-timeout",
    "--upgrade",
    "--pool",
} | {
    *("--auto-truncate", "--cache-clear", "--cors-allow-origin", "--hostname", "--model-id", "--otlp-endpoint", "--payload-limit"),
    *("--prometheus-port", "--served-model-name", "--tokenization-workers"),
}
"""Options of the benchmarks, of docker, of gunicorn, uvicorn, pip, pytest and Celery, and of text-embeddings-inference."""


# The README


def test_the_readme_is_one_screen():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 120


def test_the_readmes_first_commands_are_a_line_each():
    """.ci/run takes them as the first two lines of the blocks of commands."""
    first, second = [block for block in blocks_of(PAGES[0]) if block.language == "sh"][:2]
    assert first.code == 'pip install . && resift rerank "why are there two high tides a day" examples/tides.txt\n'
    assert second.code == "pip install -c constraints/test.txt '.[test]' && python -m pytest\n"


def test_the_readmes_example_ranks_the_right_document_first(capsys):
    block = next(block for block in blocks_of(PAGES[0]) if block.language == "python")
    exec(compile(block.code, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("1 ")
    assert len(block.code.splitlines()) <= 12


# Links


def anchors(path):
    """The anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^```.*?^```$", "", path.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_is_dead(page):
    links = [link for link in LINK.findall(PAGES_BY_NAME[page.name]) if "://" not in link]
    for link in links:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


def test_every_page_is_in_the_contents():
    contents = re.findall(r"(?m)^([a-z-]+)$", "".join(re.findall(r"(?ms)^```\{toctree\}.*?^```$", PAGES_BY_NAME["index.md"])))
    assert sorted(contents) == sorted(page.stem for page in SITE if page.name != "index.md")

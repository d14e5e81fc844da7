"""Fixtures: tiny checkpoints and artifacts, made once per session for all xdist workers; copies to modify; shared material."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

# Before PyTorch is imported: the workers share the cores, and threads of several that wait for each other take most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).parent.parent
SEED = "hypothesis_seed"

# What an example takes says how busy the machine is, not what is wrong.
settings.register_profile("untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("untimed")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """One seed for all workers, which the report's header names. Where CI is set, hypothesis takes the same examples each time."""
    if not settings.default.derandomize and config.getoption(SEED, None) is None:
        told = getattr(config, "workerinput", {}).get(SEED)
        setattr(config.option, SEED, told or str(random.SystemRandom().randrange(1 << 32)))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """xdist's: what a worker is told."""
    node.workerinput[SEED] = node.config.getoption(SEED)


def pytest_report_header(config):
    return f"hypothesis seed: {'the same each time' if settings.default.derandomize else config.getoption(SEED)}"


def pytest_make_parametrize_id(val, argname):
    """Bytes that no person reads get their argument's name: an archive's hold the time, and workers must find the same tests."""
    if isinstance(val, bytes) and not val.decode(errors="replace").replace("\n", "").isprintable():
        return argname
    return None


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory):
    """built(name, make): the folder that make(folder) fills, made by the first worker that asks for it.

    In the folder RESIFT_FIXTURES, if that is set, they stay for a run without PyTorch, which skips tests that need others.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    root = Path(os.environ.get("RESIFT_FIXTURES") or base / "built")
    root.mkdir(exist_ok=True)
    return builder(root)


def builder(root: Path):
    """build(name, make): the folder that make(folder) fills in `root`, made by the first process that asks for it."""

    def build(name: str, make) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                pytest.importorskip("torch", reason=f"PyTorch makes {name}, which RESIFT_FIXTURES has not")
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                done.touch()
        return folder

    return build


@pytest.fixture(scope="session")
def trained(built, pytestconfig):
    """trained(name, make): as `built`, for checkpoints, in whose training the tested code has no part.

    They stay in pytest's cache for further runs, by a digest of what trains them, until `pytest --cache-clear`. Where
    RESIFT_FIXTURES is set, its folder has them.
    """
    from tests.support import tiny

    if os.environ.get("RESIFT_FIXTURES") or not hasattr(pytestconfig, "cache"):
        return built
    with suppress(OSError):  # a checkout that cannot be written to
        return builder(pytestconfig.cache.mkdir(f"checkpoints-{tiny.digest()}"))
    return built


@pytest.fixture(scope="session")
def checkpoint_of(trained):
    """checkpoint_of(family, labels=1): the folder of a tiny trained checkpoint."""
    from tests.support import tiny

    def make(family: str, labels: int = 1) -> Path:
        if labels == 1:
            return trained(f"{family}-1", lambda folder: tiny.save(folder, family))
        return trained(f"{family}-{labels}", lambda folder: tiny.save_with_two_labels(folder, make(family)))

    return make


@pytest.fixture(scope="session")
def artifact_of(built, checkpoint_of):
    """artifact_of(family, labels=1): its artifact with int8 and float32 variants, which passed the gate.

    The bound for the worst pool is looser than the default: the pools grade relevance, which tiny models were not trained on,
    so some of their documents have logits closer than int8 can tell apart.
    """

    def make(family: str, labels: int = 1) -> Path:
        source = checkpoint_of(family, labels)
        return built(f"{family}-{labels}-artifact", lambda folder: export(source, folder))

    return make


def export(source: Path, folder: Path, precisions=("int8", "float32"), *, packed=False, **first_look) -> None:
    from resift.artifact.agreement import Bounds
    from resift_export.build import generated
    from resift_export.convert import convert
    from resift_export.recipe import Recipe

    recipe = Recipe(precisions=precisions, bounds=Bounds(worst_tau=0.75), packed=packed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generated, "GENERATED_PAIRS", 100)
        convert(str(source), folder, recipe, **first_look)


def tested(artifact: Path) -> Path:
    """The artifact, loaded once: tests that count or hold its batches see none of its self-test."""
    from resift import Reranker

    Reranker.load(artifact).close()
    return artifact


@pytest.fixture(scope="session")
def toolchain() -> None:
    """Skips a test that exports where PyTorch is not installed."""
    pytest.importorskip("torch", reason="needs the toolchain")


@pytest.fixture(scope="session")
def source(checkpoint_of) -> str:
    """The folder of a tiny BERT's checkpoint, as `resift export` is given it."""
    return str(checkpoint_of("bert"))


@pytest.fixture(scope="session")
def trace_of_source(source, toolchain):
    """Its traced graph, to be cloned."""
    from resift_export.checkpoint import load as checkpoint

    return trace_once(checkpoint.load(source))


@pytest.fixture
def cheap(monkeypatch, trace_of_source):
    """Cheap exports, whose graph is the one of `source`."""
    from resift_export.graph.trace import TRACERS

    cheapen(monkeypatch)
    monkeypatch.setitem(TRACERS, "torch", lambda loaded: trace_of_source.clone())


_traces = {}


def trace_once(loaded):
    """The traced graph of a checkpoint, which takes PyTorch some seconds: a clone of the first one of its weights."""
    from resift_export.graph.trace import trace

    key = loaded.folder, max(path.stat().st_mtime_ns for path in loaded.folder.iterdir())
    if key not in _traces:
        _traces[key] = trace(loaded)
    return _traces[key].clone()


def cheapen(patch: pytest.MonkeyPatch) -> None:
    """Makes exports trace each checkpoint once, take the first range that they try, and generate few pairs and few class pools."""
    from resift_export.build import class_pools, generated, losses
    from resift_export.graph.trace import TRACERS
    from resift_export.int8 import ranges

    patch.setitem(TRACERS, "torch", trace_once)

    patch.setattr(ranges, "CLIPS", (1.0,))
    patch.setattr(ranges, "MIGRATIONS", (0.0,))
    patch.setattr(generated, "GENERATED_PAIRS", 100)
    patch.setattr(class_pools, "TOKENS", 2_000)
    patch.setattr(class_pools, "QUERIES", 4)
    patch.setattr(losses, "LEAST_QUERIES", 4)


@pytest.fixture(scope="session")
def small_gate(tmp_path_factory) -> Path:
    """A gate that is fast: 30 of the built-in pools, each cut to ten documents of at most eight words."""
    from resift_export.recipe import Recipe

    path = tmp_path_factory.mktemp("gate") / "small.jsonl"
    pools = Recipe().gate_pools()[:30]
    texts = [[" ".join(text.split()[:8]) for text in pool.documents[:10]] for pool in pools]
    rows = [{"qid": pool.qid, "query": pool.query, "documents": rows} for pool, rows in zip(pools, texts, strict=True)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture
def home(tmp_path) -> Path:
    """An empty folder to export into, apart from other files of the test."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def artifact(artifact_of) -> Path:
    """The artifact of a tiny BERT."""
    return tested(artifact_of("bert"))


@pytest.fixture(scope="session")
def deeper(trained, checkpoint_of) -> Path:
    """The checkpoint of a BERT of five layers, of which the tiny BERT is a student."""
    from tests.support import tiny

    student = checkpoint_of("bert")
    return trained("bert-deeper", lambda folder: tiny.save_deeper(folder, student))


@pytest.fixture(scope="session")
def planned_artifact(built, checkpoint_of, deeper) -> Path:
    """The artifact of a BERT of five layers with one of two layers as its first look; calls with a top_k follow its own plan."""
    student = checkpoint_of("bert")
    return tested(built("bert-planned", lambda folder: export(deeper, folder, first_look=str(student), plan="first-look:0.2,full")))


@pytest.fixture(scope="session")
def split_artifact(built, deeper) -> Path:
    """The BERT of five layers with itself, split, as its first look, which was not trained to be split and ranks badly."""
    from tests.support import splits

    student = built("bert-split-student", lambda folder: splits.save(folder, deeper))
    return tested(built("bert-split", lambda folder: export(deeper, folder, first_look=str(student), force=True)))


@pytest.fixture(scope="session")
def masked_artifact(built, checkpoint_of, deeper) -> Path:
    """The planned artifact's checkpoints in float16, for CUDA, the full one with a packed graph, and in float32."""
    terms = {"first_look": str(checkpoint_of("bert")), "plan": "first-look:0.2,full", "packed": True}
    return tested(built("bert-packed", lambda folder: export(deeper, folder, ("float16", "float32"), **terms)))


@pytest.fixture(scope="session")
def planned(planned_artifact):
    """A Reranker with a first look."""
    from resift import Reranker

    with Reranker.load(planned_artifact) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def reranker(artifact):
    """One Reranker for all tests, as it would serve all requests of a service."""
    from resift import Reranker

    with Reranker.load(artifact) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's shared material; skips the test if there is none."""
    folder = Path(os.environ.get("RESIFT_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "models").is_dir():
        pytest.skip(f"no shared material at {folder} (set RESIFT_SHARED)")
    return folder


@pytest.fixture
def file(tmp_path):
    """file(content, name): the path of a file with that content."""

    def write(content, name="documents.txt"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.fixture
def copy(artifact, tmp_path):
    """A copy of the tiny artifact that a test may modify."""
    return shutil.copytree(artifact, tmp_path / "copy")


@pytest.fixture
def disagreeing(copy):
    """A well-formed artifact whose certificate comes from a machine that ranked in reverse order."""
    import msgspec
    import numpy as np

    from resift.artifact.agreement import Bounds, measure
    from resift.artifact.certificate import Certificate
    from resift.artifact.folder import Artifact

    found = Certificate.read(Artifact.open(copy))
    pools = [
        msgspec.structs.replace(
            pool,
            checkpoint=[-logit for logit in pool.checkpoint],
            variants={file: [-logit for logit in logits] for file, logits in pool.variants.items()},
        )
        for pool in found.pools
    ]
    checkpoint = [np.array(pool.checkpoint) for pool in pools]
    agreement = {file: measure(pools, checkpoint, [np.array(pool.variants[file]) for pool in pools]) for file in found.agreement}
    certificate = Certificate(bounds=Bounds(), agreement=agreement, pools=pools)
    rewrite(copy, "certificate.json", msgspec.json.encode(certificate))
    return copy


def worst_first(reranker, query: str, documents: list[str]) -> list[str]:
    """The documents in an order that reranking turns round, whatever the model prefers: the middle one of an odd number stays."""
    ranking = reranker.rerank(query, documents)
    assert len({result.logit for result in ranking}) == len(documents), "equal logits would keep the order given"
    return [result.document for result in reversed(ranking)]


def rewrite(folder, name, content: bytes) -> None:
    """Replaces a file and updates the manifest to match, as an attacker would."""
    (folder / name).write_bytes(content)
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(folder, lambda manifest: manifest["files"].__setitem__(name, entry))


def edit(folder, change) -> None:
    """Applies `change` to the manifest of the artifact in `folder`."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def interruptible():
    """Child processes receive SIGINT and SIGHUP even if this process ignores them, as one in the background or under nohup does."""
    handlers = {"SIGINT": signal.default_int_handler, "SIGHUP": signal.SIG_DFL}
    before = {number: signal.signal(number, handlers[name]) for name, number in vars(signal).items() if name in handlers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def gate(monkeypatch):
    """Holds every batch until it is opened; (opened, begun, rows of each batch that began)."""
    from resift.runtime.session import Session

    opened, begun, rows, run = threading.Event(), threading.Event(), [], Session.run

    def held(self, batch):
        rows.append(len(batch["input_ids"]))
        begun.set()
        assert opened.wait(60)
        return run(self, batch)

    monkeypatch.setattr(Session, "run", held)
    yield opened, begun, rows
    opened.set()


@pytest.fixture
def one_at_a_time(artifact):
    from resift import Reranker, Settings

    with Reranker.load(artifact, settings=Settings(threads=1)) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def browser():
    from tests.support.browser import chromium

    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser):
    """Opens pages, which may report no error; see `browsing.visits`."""
    from tests.support.browser import visits

    with visits(browser) as go:
        yield go

"""Fixtures: tiny artifacts, made once a session and shared by xdist's workers, and copies to spoil; the shared material, if any."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from filelock import FileLock

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory):
    """built(name, make): the folder that make(folder) filled, made by the first worker that asks."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "built"
    root.mkdir(exist_ok=True)

    def build(name: str, make) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return build


@pytest.fixture(scope="session")
def checkpoint_of(built):
    """checkpoint_of(family, labels=1): a tiny trained checkpoint's folder."""
    import tiny

    return lambda family, labels=1: built(f"{family}-{labels}", lambda folder: tiny.save(folder, family, labels=labels))


@pytest.fixture(scope="session")
def artifact_of(built, checkpoint_of):
    """artifact_of(family, labels=1): its artifact with int8 and float32 graphs, past the gate.

    The bound of a single pool is looser than the default: the pools grade relevance, which tiny models were not taught,
    so some of their documents lie nearer to each other than int8 can tell apart.
    """
    from resift.parity import Bounds
    from resift_export.convert import convert
    from resift_export.recipe import Recipe

    def make(family: str, labels: int = 1) -> Path:
        source = checkpoint_of(family, labels)
        recipe = Recipe(precisions=("int8", "float32"), bounds=Bounds(worst_tau=0.75))
        return built(f"{family}-{labels}-artifact", lambda folder: convert(str(source), folder, recipe))

    return make


@pytest.fixture(scope="session")
def artifact(artifact_of) -> Path:
    """A tiny BERT's artifact."""
    return artifact_of("bert")


@pytest.fixture(scope="session")
def reranker(artifact):
    """It serves every test at once, as it would a service's requests."""
    from resift import Reranker

    with Reranker.load(artifact) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's shared material, or a skip that says so."""
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
    """A copy of the tiny artifact, to be spoiled."""
    return shutil.copytree(artifact, tmp_path / "copy")


@pytest.fixture
def disagreeing(copy):
    """An artifact in good order whose certificate was made by a machine that ranked the other way round."""
    import msgspec
    import numpy as np

    from resift.artifact import Artifact
    from resift.parity import Bounds, Certificate, measure

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


def rewrite(folder, name, content: bytes) -> None:
    """Replaces a file and makes the manifest agree, as someone with bad intentions would."""
    (folder / name).write_bytes(content)
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(folder, lambda manifest: manifest["files"].__setitem__(name, entry))


def edit(folder, change) -> None:
    """Changes its manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def interruptible():
    """Children take SIGINT even where this process was started with it ignored, as shells do for what runs behind."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)

"""Preparing past one machine, on a Ray of two CPUs that this module starts."""

from __future__ import annotations

import json
import os
import signal
import sysconfig
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra ray, which has an environment of its own in .ci/full")

import msgspec
import ray

from resift import ArtifactError, InferenceError, InputError, OutputError, Reranker, Settings
from resift.integrations.ray import fill_store, prepare
from resift.pools import preparation
from resift.pools.preparation import Prepared, contents, header_of
from resift.states.writer import StoreWriter
from tests.support import children, tiny

RESIFT = Path(sysconfig.get_path("scripts")) / "resift"
TEXTS = tiny.texts()[:40]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def corpus(tmp_path):
    """A file of documents, the first of them twice."""
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, TEXTS[0]]))
    return path


@pytest.fixture(scope="module")
def reranker(split_artifact):
    with Reranker.load(split_artifact, settings=Settings(threads=1)) as loaded:
        yield loaded


def states(reranker, store):
    """The bytes of the states of each text in a store; None for those that it has not."""
    with Reranker.load(reranker.artifact.folder, settings=Settings(threads=1, store=store, document_cache=0)) as reading:
        found = reading.document_states.find(reading.document_digests(TEXTS)).states
    return [None if each is None else each.tobytes() for each in found]


def test_actors_compute_the_states_that_this_process_does(reranker, split_artifact, corpus, tmp_path):
    told = []
    store = tmp_path / "store"
    done = fill_store(corpus, store, model=str(split_artifact), workers=2, progress=lambda *each: told.append(each))
    right = [content for _, content in contents(reranker, TEXTS)]
    assert done == Prepared(41, 40, sum(map(len, right)))
    assert told[-1] == (done, 1.0)
    assert states(reranker, store) == right
    assert fill_store(corpus, store, model=str(split_artifact), workers=1).new == 0


def test_a_run_goes_on_where_another_ended_and_parts_are_disjoint(reranker, split_artifact, corpus, tmp_path):
    store = tmp_path / "store"
    with StoreWriter(store, header_of(reranker)) as writer:
        preparation.fill_store(reranker, TEXTS[:15], writer)
        with pytest.raises(OutputError, match="another process is writing this store"):
            fill_store(corpus, store, model=str(split_artifact), workers=1)
    new = [fill_store(corpus, store, model=str(split_artifact), workers=1, part=(part, 2)).new for part in (1, 2)]
    assert sum(new) == 25
    assert all(new)
    assert None not in states(reranker, store)


def test_states_of_another_kind_are_refused(split_artifact, corpus, tmp_path, monkeypatch):
    """As those of an actor which Ray began anew on another machine."""
    header = prepare._Actors.header
    other = partial(msgspec.structs.replace, identity="another")
    monkeypatch.setattr(prepare._Actors, "header", lambda self, shards: other(header(self, shards)))
    with pytest.raises(ArtifactError, match=r"states are those of .* int8 onnxruntime .*, but others elsewhere in the cluster"):
        fill_store(corpus, tmp_path / "store", model=str(split_artifact), workers=1)


def dying(flag: Path) -> type:
    """The actor, which is killed at its first documents; defined here, as Ray pickles classes that it cannot import."""

    class Dying(prepare._ComputeStates):
        def contents(self, texts, identity):
            if not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().contents(texts, identity)

    return Dying


def test_an_actor_that_is_killed_is_begun_anew(reranker, split_artifact, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "_ComputeStates", dying(tmp_path / "flag"))
    assert fill_store(corpus, tmp_path / "store", model=str(split_artifact), workers=1).new == 40
    assert (tmp_path / "flag").exists()
    assert None not in states(reranker, tmp_path / "store")


def test_what_ray_gives_up_is_one_line_and_what_was_written_stays(reranker, split_artifact, corpus, tmp_path, monkeypatch):
    failed: Future = Future()
    failed.set_exception(ray.exceptions.RayActorError())
    monkeypatch.setattr(prepare._Actors, "submit", lambda self, identity: lambda texts: failed)
    store = tmp_path / "store"
    with StoreWriter(store, header_of(reranker)) as writer:
        preparation.fill_store(reranker, TEXTS[:5], writer)
    with pytest.raises(
        InferenceError, match=r"Ray gave up some documents \(RayActorError: .*is kept: run the same again"
    ) as caught:
        fill_store(corpus, store, model=str(split_artifact), workers=1)
    assert "\n" not in str(caught.value)
    assert [each is not None for each in states(reranker, store)] == [True] * 5 + [False] * 35


@pytest.mark.parametrize(("line", "said"), [(b"{", "corpus.jsonl, line 42: not JSON"), (b"", "has no split graph")])
def test_errors_are_those_of_one_process(artifact, split_artifact, corpus, tmp_path, line, said):
    corpus.write_bytes(corpus.read_bytes() + line)
    with pytest.raises(InputError, match=said):
        fill_store(corpus, tmp_path / "store", model=str(split_artifact if line else artifact), workers=1)


def test_the_command_line_prepares_on_ray(reranker, split_artifact, corpus, tmp_path):
    joined = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    options = ["--model", split_artifact, "--store", tmp_path / "store", "--engine", "ray", "--workers", "1", "--json"]
    done = children.run([RESIFT, "prepare", *map(str, [corpus, *options])], capture_output=True, text=True, env=joined)
    assert done.returncode == 0, done.stderr
    assert {name: json.loads(done.stdout)[name] for name in ("documents", "new")} == {"documents": 41, "new": 40}
    assert None not in states(reranker, tmp_path / "store")

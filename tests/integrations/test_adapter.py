"""What the adapters to frameworks share: fields, and a Reranker loaded at its first use."""

from __future__ import annotations

import asyncio
import gc
import pickle
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest

pytest.importorskip("pydantic")

from pydantic import ValidationError

from resift import Reranker, Settings
from resift.integrations import adapter as adapters
from resift.integrations.adapter import CACHE_SIZE, Adapter
from tests.conftest import edit
from tests.support import children
from tests.support.forks import beside_threads, can_fork, in_child

QUERY, TEXTS = "how do tides work", ["The moon pulls the sea.", "Bread rises."]


@pytest.fixture(autouse=True)
def _none_loaded():
    adapters._open.cache_clear()
    yield
    adapters._open.cache_clear()


@pytest.fixture
def loads(monkeypatch):
    """The thread and settings of each Reranker that is loaded."""
    seen, make = [], Reranker.__init__

    def counted(self, artifact, *, settings=None, **others):
        seen.append((threading.current_thread(), settings))
        make(self, artifact, settings=settings, **others)

    monkeypatch.setattr(Reranker, "__init__", counted)
    return seen


def test_nothing_is_loaded_before_the_first_use_and_equal_adapters_share_one(artifact, loads):
    made = [Adapter(model=artifact), Adapter(model=str(artifact)), Adapter(model=artifact / "." / ""), Adapter(model=artifact)]
    assert loads == []
    assert len({id(each._load()) for each in made}) == len(loads) == 1
    assert made[0]._load() is made[0].model_copy()._load()
    other = Adapter(model=artifact, settings=Settings(threads=1))
    assert other._load() is not made[0]._load()
    assert [settings.threads for _, settings in loads] == ["auto", 1]


def test_the_embedded_model_is_the_default(loads):
    assert Adapter()._load().artifact.manifest.model.id == Reranker.load().artifact.manifest.model.id


def test_threads_that_come_at_once_load_once(artifact, loads):
    barrier = threading.Barrier(8)

    def first(each):
        barrier.wait(60)
        return each._load()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(first, [Adapter(model=artifact) for _ in range(8)]))
    assert len({id(each) for each in found}) == len(loads) == 1


def test_in_asyncio_the_first_use_loads_on_another_thread(artifact, loads):
    async def ask():
        return await asyncio.gather(*(Adapter(model=artifact)._aload() for _ in range(4)))

    assert len(set(map(id, asyncio.run(ask())))) == 1
    assert [thread is threading.main_thread() for thread, _ in loads] == [False]


def test_copies_share_what_was_loaded_and_a_pickle_loads_at_its_first_use(artifact, loads):
    used = Adapter(model=artifact)
    reranker = used._load()
    adapters._open.cache_clear()
    for made in (deepcopy(used), used.model_copy(), used.model_copy(deep=True)):
        assert made._load() is reranker
    again = pickle.loads(pickle.dumps(used))
    assert len(loads) == 1
    assert again._load() is not reranker
    assert again == used


def test_a_change_of_settings_is_heeded(artifact):
    used = Adapter(model=artifact)
    first = used._load()
    changed = used.model_copy(update={"settings": Settings(threads=1)})
    assert changed._load().settings == Settings(threads=1)
    assert used._load() is first
    used.settings = Settings(threads=2)
    assert used._load().settings == asyncio.run(used._aload()).settings == Settings(threads=2)


def test_a_folder_that_was_exported_again_is_loaded_again(copy, loads):
    first = Adapter(model=copy)
    old = first._load()
    edit(copy, lambda manifest: manifest["model"].update(id="another"))
    assert first._load() is old
    assert Adapter(model=copy)._load().artifact.manifest.model.id == "another"
    assert len(loads) == 2


def test_a_few_stay_loaded_for_adapters_to_come_and_the_rest_go_with_their_adapters(artifact, loads):
    asked = [Settings(token_budget=4096 + n) for n in range(CACHE_SIZE + 2)]
    engines = [weakref.ref(Adapter(model=artifact, settings=settings)._load()) for settings in asked]
    gc.collect()
    assert [engine() is not None for engine in engines] == [False, False, *[True] * CACHE_SIZE]
    held = Adapter(model=artifact, settings=asked[0])
    engine = weakref.ref(held._load())
    for settings in asked[1:]:
        Adapter(model=artifact, settings=settings)._load()
    gc.collect()
    assert engine() is held._load()


def test_a_loaded_ranker_is_used_as_it_is(reranker, artifact, loads):
    given = Adapter(model=reranker)
    assert given._load() is asyncio.run(given._aload()) is given.model_copy()._load() is reranker
    assert Adapter(model=reranker, settings=reranker.settings).settings == reranker.settings
    assert loads == []


def test_a_loaded_ranker_is_serialized_as_its_folder_and_settings(artifact):
    with Reranker.load(artifact, settings=Settings(threads=1)) as loaded:
        given = Adapter(model=loaded)
        again = Adapter.model_validate_json(given.model_dump_json())
        assert again.model == str(loaded.artifact.folder)
        assert again._load().settings == Settings(threads=1)
        with pytest.raises(ValidationError, match=r"pass them to Reranker\.load"):
            Adapter(model=loaded, settings=Settings(threads=2))


def test_a_loaded_ranker_is_pickled_with_its_adapter(reranker, loads):
    again = pickle.loads(pickle.dumps(Adapter(model=reranker)))
    assert again._load().logits(QUERY, TEXTS).tolist() == reranker.logits(QUERY, TEXTS).tolist()
    assert len(loads) == 1


@can_fork
@beside_threads
def test_a_child_forked_while_a_model_loads_can_load(artifact):
    used, unused = Adapter(model=artifact), Adapter(model=artifact, settings=Settings(threads=1))
    expected = used._load().logits(QUERY, TEXTS).tolist()
    with adapters._loading.hold():
        assert in_child(lambda: [each._load().logits(QUERY, TEXTS).tolist() for each in (used, unused)]) == [expected] * 2


@pytest.mark.parametrize(("name", "package"), [("langchain", "langchain_core"), ("llamaindex", "llama_index")])
def test_without_its_framework_an_adapter_names_the_extra(name, package):
    code = f"import sys; sys.modules['{package}'] = None; import resift.integrations.{name}"
    done = children.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"ExtraError: resift.integrations.{name} needs" in done.stderr
    assert f"pip install 'resift[{name}]'" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modle": "x"}, "modle"),
        ({"model": 3}, "model"),
        ({"settings": {"threads": 0}}, "Settings.threads is 0"),
        ({"settings": {"thread": 1}}, "thread"),
        ({"settings": "fast"}, "settings"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Adapter(**fields)

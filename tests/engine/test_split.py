"""A Reranker whose first look is split: what both halves compute, whatever was known of the documents."""

from __future__ import annotations

import asyncio
import json
import pickle
import random
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from resift import ArtifactError, ClosedError, InferenceError, InputError, Ranking, Reranker, Settings
from resift.artifact.folder import Artifact
from resift.evaluate.tuning.timing import WARM_UP, Bench
from resift.pools.reading import CandidatePool
from resift.runtime.session import Session
from resift.scheduling.runner import Runner
from resift.states.document_states import StatesCounts
from resift.states.layout import Header
from resift.states.writer import StoreWriter
from tests.conftest import edit, rewrite
from tests.support import split_graphs, tiny
from tests.support.forks import beside_threads, can_fork, in_child
from tests.support.split_graphs import DOCUMENT_FILE, QUERY_FILE, add_split_look, expected

QUERY, OTHER = "how do tides work", "why is bread full of holes"
DOCUMENTS = [text[: 20 + 11 * number] for number, text in enumerate(tiny.texts()[1:80:2])]
LONG_QUERY = "the " * 40
LOOK = "first-look"
MANY = 1 << 30


@pytest.fixture(scope="module")
def integer_artifact(artifact, tmp_path_factory):
    return add_split_look(shutil.copytree(artifact, tmp_path_factory.mktemp("split") / "artifact"))


@pytest.fixture(scope="module")
def split(integer_artifact):
    with Reranker.load(integer_artifact, settings=Settings(document_cache=0)) as loaded:
        yield loaded


@pytest.fixture
def computed(monkeypatch):
    """Rows of each batch of a document half."""
    rows, run = [], Session.run

    def counted(self, batch):
        if self._size is not None:
            rows.append(batch["input_ids"].tolist())
        return run(self, batch)

    monkeypatch.setattr(Session, "run", counted)
    return rows


def look(reranker, documents=DOCUMENTS, query=QUERY, **more):
    return reranker.submit(query, documents, plan=LOOK, **more).result()


def oracle(reranker, documents=DOCUMENTS, query=QUERY, **more):
    return expected(reranker.tokenizer.encode(query, documents), **more)[:, 0].tolist()


def plain(scored):
    return [scored.logits.tolist(), scored.states]


def prepared(reranker, folder, documents):
    """A store with the states of those documents."""
    states = reranker.document_states
    header = Header(states.identity, states.size, 2, "a model")
    with StoreWriter(folder, header) as writer:
        writer.keep({digest: each.tobytes() for digest, each in reranker.prepare(documents)})
    return folder


def test_the_halves_compute_what_they_are_meant_to(split):
    assert len(set(oracle(split))) > 30
    assert look(split).logits.tolist() == oracle(split)
    assert look(split, query=OTHER).logits.tolist() == oracle(split, query=OTHER) != oracle(split)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("token_budget", [1, 64, 4096])
def test_logits_are_the_same_in_any_batches_and_any_mix_of_known_and_new_documents(
    integer_artifact, split, tmp_path, threads, token_budget
):
    store = prepared(split, tmp_path / "store", DOCUMENTS[::3])
    settings = Settings(threads=threads, token_budget=token_budget, store=store, document_cache=MANY)
    right = {query: dict(zip(DOCUMENTS, oracle(split, query=query), strict=True)) for query in (QUERY, OTHER)}
    chance = random.Random(threads * 7 + token_budget)
    with Reranker.load(integer_artifact, settings=settings) as reranker:
        pools = [(query, chance.sample(DOCUMENTS, chance.randrange(1, 40))) for query in (QUERY, OTHER) for _ in range(6)]
        chance.shuffle(pools)
        with ThreadPoolExecutor(4) as callers:
            found = [*callers.map(lambda pool: look(reranker, pool[1], pool[0]), pools)]
        for (query, documents), scored in zip(pools, found, strict=True):
            assert scored.logits.tolist() == [right[query][document] for document in documents]
            assert sum(scored.states) == len(documents)
        every = [sum(column) for column in zip(*(scored.states for scored in found), strict=True)]
        assert min(every) > 0
        assert reranker.document_states.counts == tuple(every)


def test_the_halves_of_an_export_give_the_same_bits_in_any_batches_and_any_mix(split_artifact, tmp_path):
    one_by_one = Settings(threads=1, token_budget=1, document_cache=0)
    with Reranker.load(split_artifact, settings=one_by_one) as reranker:
        right = {query: dict(zip(DOCUMENTS, look(reranker, query=query).logits.tolist(), strict=True)) for query in (QUERY, OTHER)}
        assert len(set(right[QUERY].values())) == len(DOCUMENTS)
        store = prepared(reranker, tmp_path / "store", DOCUMENTS[::3])
    with (
        Reranker.load(split_artifact, settings=Settings(threads=3, token_budget=512, store=store)) as reranker,
        ThreadPoolExecutor(3) as callers,
    ):
        chance = random.Random(1)
        pools = [(query, chance.sample(DOCUMENTS, chance.randrange(1, 20))) for query in (QUERY, OTHER) for _ in range(8)]
        found = callers.map(lambda pool: look(reranker, pool[1], pool[0]), pools)
        for (query, documents), scored in zip(pools, found, strict=True):
            assert scored.logits.tolist() == [right[query][document] for document in documents]
        assert min(reranker.document_states.counts) > 0


@pytest.mark.slow
def test_logits_are_the_same_in_two_thousand_pools_of_eight_threads(integer_artifact, split, tmp_path):
    store = prepared(split, tmp_path / "store", DOCUMENTS[::3])
    right = {query: dict(zip(DOCUMENTS, oracle(split, query=query), strict=True)) for query in (QUERY, OTHER)}
    chance = random.Random(1)
    pools = [(chance.choice((QUERY, OTHER)), chance.sample(DOCUMENTS, chance.randrange(1, 40))) for _ in range(2000)]
    few = 10 * len(DOCUMENTS) * split_graphs.SIZE  # so few bytes that documents are dropped and computed again
    with (
        Reranker.load(integer_artifact, settings=Settings(store=store, document_cache=few)) as reranker,
        ThreadPoolExecutor(8) as callers,
    ):
        for (query, documents), scored in zip(
            pools, callers.map(lambda pool: look(reranker, pool[1], pool[0]), pools), strict=True
        ):
            assert scored.logits.tolist() == [right[query][document] for document in documents]


def test_results_say_what_was_known_of_the_documents(integer_artifact, split, tmp_path, computed):
    store = prepared(split, tmp_path / "store", DOCUMENTS[:5])
    computed.clear()
    with Reranker.load(integer_artifact, settings=Settings(store=store, document_cache=MANY)) as reranker:
        first, second = (look(reranker, DOCUMENTS[:9]) for _ in range(2))
        assert (first.states, second.states) == (StatesCounts(5, 0, 4), StatesCounts(0, 9, 0))
        assert sum(map(len, computed)) == 4
        ranking = reranker.rerank(OTHER, DOCUMENTS[:10], plan=LOOK)
        assert ranking.states == StatesCounts(prepared=0, cached=9, new=1)
        assert json.loads(ranking.to_json())["states"] == {"prepared": 0, "cached": 9, "new": 1}
        assert look(reranker, DOCUMENTS[:1]).to_dict()["states"] == {"prepared": 0, "cached": 1, "new": 0}
        assert reranker.rerank(QUERY, DOCUMENTS[:9], plan="full").states is None
        again = Ranking.of(DOCUMENTS[:9], first)
        assert (again, again.states) == (Ranking.of(DOCUMENTS[:9], second), first.states)


def test_equal_documents_of_a_call_are_computed_once(split, computed):
    documents = ["The tide rises.", *DOCUMENTS[:3], "the TIDE rises.", "The tide rises."]
    scored = look(split, documents)
    assert sum(map(len, computed)) == 4
    assert scored.states == StatesCounts(0, 0, 4)
    assert scored.logits.tolist() == oracle(split, documents)
    assert scored.logits[0] == scored.logits[4] == scored.logits[5]


def test_without_memory_documents_are_computed_for_every_call(split, computed):
    for _ in range(2):
        assert look(split, DOCUMENTS[:4]).states == StatesCounts(0, 0, 4)
    assert sum(map(len, computed)) == 8


@pytest.mark.parametrize("budget_ms", [None, 1e6])
def test_what_the_split_look_keeps_is_scored_by_the_full_graph(split, budget_ms):
    plan = f"{LOOK}:7,full"
    ranking = split.rerank(QUERY, DOCUMENTS, plan=plan, budget_ms=budget_ms)
    order = np.argsort(-np.array(oracle(split)), kind="stable").tolist()
    full = split.logits(QUERY, DOCUMENTS)
    kept = sorted(order[:7], key=lambda index: (-full[index], index))
    assert [result.index for result in ranking] == [*kept, *order[7:]]
    assert [result.scored_by for result in ranking] == ["full"] * 7 + [LOOK] * 33
    assert [result.logit for result in ranking[:7]] == full[kept].tolist()
    assert [result.logit for result in ranking[7:]] == [oracle(split)[index] for index in order[7:]]
    assert ranking.states == StatesCounts(0, 0, 40)


def test_tune_times_documents_as_new_every_time(integer_artifact, computed):
    pool = CandidatePool(QUERY, DOCUMENTS[:4])
    with Bench(integer_artifact, Settings(plan=LOOK)) as bench:
        settings = bench.settings("int8", 1, 256)
        for _ in range(2):
            computed.clear()
            bench.milliseconds(settings, pool)
            assert sum(map(len, computed)) in (4, 4 * (1 + WARM_UP))


def test_every_way_in_gives_the_same(split):
    expected_ranking = split.rerank(QUERY, DOCUMENTS, plan=LOOK)
    assert split.rerank_many([QUERY] * 2, [DOCUMENTS] * 2, plan=LOOK) == [expected_ranking] * 2
    assert asyncio.run(split.arerank(QUERY, DOCUMENTS, plan=LOOK)) == expected_ranking

    async def encoded():
        return split.submit_encoded(await split.aencode(QUERY, DOCUMENTS, plan=LOOK)).result()

    assert Ranking.of(DOCUMENTS, asyncio.run(encoded())) == expected_ranking
    assert split.score(QUERY, DOCUMENTS).tolist() == split.submit(QUERY, DOCUMENTS, plan="full").result().scores.tolist()
    assert split.rerank(QUERY, [], plan=LOOK).results == ()


def test_a_query_that_is_too_long_for_its_slot_is_read_by_the_full_graph_alone(split, computed):
    tokens = split.tokenizer.encode(LONG_QUERY, ["a"]).query_tokens[0]
    assert tokens > split_graphs.QUERY_TOKENS
    full = split.logits(LONG_QUERY, DOCUMENTS)
    for plan in (LOOK, f"{LOOK}:3,full"):
        scored = split.submit(LONG_QUERY, DOCUMENTS, plan=plan).result()
        assert (scored.graphs, scored.states) == (("full",), None)
        assert scored.logits.tolist() == full.tolist()
        assert not np.isnan(scored.scores).any()
    assert computed == []


def test_the_longest_query_that_fits_its_slot_is_read_by_the_split_graph(split):
    query, is_longest = "the", False
    while not is_longest:
        tokens = split.tokenizer.encode(query, ["a"]).query_tokens[0]
        is_longest = tokens == split_graphs.QUERY_TOKENS
        scored = look(split, DOCUMENTS[:4], query)
        assert scored.graphs == (LOOK,)
        assert scored.logits.tolist() == oracle(split, DOCUMENTS[:4], query)
        query += " the"
    assert look(split, DOCUMENTS[:4], query).graphs == ("full",)


@pytest.mark.parametrize("max_length", ["auto", 96])
def test_a_long_document_has_the_same_states_next_to_any_query(integer_artifact, split, computed, max_length):
    limit = min(192, 192 if max_length == "auto" else max_length) - split_graphs.QUERY_TOKENS
    documents = [" ".join(DOCUMENTS[number:]) for number in range(3)]
    with Reranker.load(integer_artifact, settings=Settings(max_length=max_length, document_cache=MANY)) as reranker:
        counts = []
        for query in ("a", QUERY, "the " * 18):
            scored = look(reranker, documents, query)
            counts.append(scored.states)
            assert scored.logits.tolist() == oracle(reranker, documents, query, limit=limit)
        assert counts == [StatesCounts(0, 0, 3), *[StatesCounts(0, 3, 0)] * 2]
        assert [len(row) for batch in computed for row in batch] == [limit] * 3
        assert dict(reranker.prepare(documents)).keys() == set(reranker.document_digests(documents))
        digests = reranker.document_digests(documents)
        assert all(each is not None for each in reranker.document_states.find(digests).states)


def test_too_few_tokens_for_a_document_leave_the_split_graph_out(integer_artifact):
    settings = Settings(max_length=2 * split_graphs.QUERY_TOKENS - 1)
    with Reranker.load(integer_artifact, settings=settings) as reranker:
        assert look(reranker).graphs == ("full",)
        for ask in (reranker.prepare, reranker.document_digests):
            with pytest.raises(InputError, match="documents have 23 tokens beside the 24 of a query; expected a max_length of 48"):
                ask(["a"])


def test_each_window_is_a_document_of_its_own_and_the_first_can_be_prepared(integer_artifact, split):
    documents = [" ".join(DOCUMENTS[number:]) for number in range(3)] + DOCUMENTS[:2]
    with Reranker.load(integer_artifact, settings=Settings(windows=4, document_cache=MANY)) as reranker:
        scored = look(reranker, documents)
        assert scored.windows.tolist() == [4, 4, 4, 1, 1]
        assert scored.states == StatesCounts(0, 0, 14)
        parts = [*reranker.tokenizer.parts(QUERY, documents, windows=4)]
        [encodings] = parts
        rows = expected(encodings)[:, 0]
        best = [rows[start:end].max() for start, end in zip(encodings.row_offsets, encodings.row_offsets[1:], strict=False)]
        assert scored.logits.tolist() == best
        again = look(reranker, documents, "tides")
        assert again.states == StatesCounts(0, 5, 9)  # the first window of each is the same next to another query
        assert reranker.document_digests(documents) == split.document_digests(documents)


@pytest.mark.parametrize("truncation", ["only_second", "longest_first"])
def test_pairs_of_any_truncation_are_read_alike(integer_artifact, truncation):
    documents = [" ".join(DOCUMENTS[number:]) for number in range(2)] + DOCUMENTS[:3]
    with Reranker.load(integer_artifact, settings=Settings(truncation=truncation)) as reranker:
        assert look(reranker, documents).logits.tolist() == oracle(reranker, documents)


def test_a_split_look_of_two_labels_ranks_by_their_odds(artifact, tmp_path):
    folder = add_split_look(shutil.copytree(artifact, tmp_path / "two"), labels=2)
    with Reranker.load(folder) as reranker:
        both = expected(reranker.tokenizer.encode(QUERY, DOCUMENTS), labels=2)
        scored = look(reranker)
        assert scored.outputs.tolist() == both.tolist()
        assert scored.logits.tolist() == (both[:, 1] - both[:, 0]).tolist()


def test_a_split_stage_in_the_middle_of_three(planned_artifact, tmp_path, computed):
    folder = add_split_look(shutil.copytree(planned_artifact, tmp_path / "three"), name="split", operations=200_000)
    with Reranker.load(folder, plan="full") as reranker:
        ranking = reranker.rerank(QUERY, DOCUMENTS, plan="first-look:12,split:4,full")
        first = np.argsort(-reranker.submit(QUERY, DOCUMENTS, plan="first-look").result().logits, kind="stable")[:12]
        middle = np.array(oracle(reranker))[first]
        kept = {int(index) for index in first[np.argsort(-middle, kind="stable")[:4]]}
        assert sum(map(len, computed)) == 12
        assert {result.index for result in ranking[:4]} == kept
        assert [result.scored_by for result in ranking] == ["full"] * 4 + ["split"] * 8 + ["first-look"] * 28
        assert ranking.states == StatesCounts(0, 0, 12)


def test_a_stage_that_pays_for_prepared_documents_runs_for_new_ones_too(artifact, tmp_path):
    folder = add_split_look(shutil.copytree(artifact, tmp_path / "wide"), operations=70_000)
    with Reranker.load(folder) as reranker:
        # It costs 0.85 of the full graph's operations for a new document, and 0.06 for a prepared one.
        for _ in range(2):
            assert reranker.submit(QUERY, DOCUMENTS, plan=f"{LOOK}:10,full").result().graphs == (LOOK, "full")
            assert reranker.submit(QUERY, DOCUMENTS[:12], plan=f"{LOOK}:10,full").result().graphs == ("full",)


def test_an_artifacts_own_plan_may_begin_with_a_split_graph(artifact, tmp_path):
    folder = add_split_look(shutil.copytree(artifact, tmp_path / "own"), plan=f"{LOOK}:0.2,full")
    with Reranker.load(folder) as reranker:
        ranking = reranker.rerank(QUERY, DOCUMENTS, top_k=3)
        assert ranking == reranker.rerank(QUERY, DOCUMENTS, top_k=3, plan=f"{LOOK}:0.2,full")
        assert ranking.states == StatesCounts(0, 40, 0) or sum(ranking.states) == 40
        assert reranker.rerank(QUERY, DOCUMENTS).states is None


def test_prepared_states_are_those_of_the_document_half_and_are_kept_nowhere(integer_artifact, split, computed):
    with Reranker.load(integer_artifact, settings=Settings(document_cache=MANY)) as reranker:
        look(reranker, DOCUMENTS[:3])
        computed.clear()
        documents = [DOCUMENTS[0], DOCUMENTS[7], DOCUMENTS[0], ""]
        found = reranker.prepare(documents)
        assert sum(map(len, computed)) == 3
        assert [digest for digest, _ in found] == reranker.document_digests(documents) == split.document_digests(documents)
        encodings = reranker.tokenizer.encode(QUERY, documents)
        for row, (_, states) in enumerate(found):
            assert states.dtype == np.uint8
            assert np.array_equal(states, split_graphs.states_of(*encodings.document(row, 1000)))
        assert look(reranker, [DOCUMENTS[7]]).states == StatesCounts(0, 0, 1)
    assert split.prepare([]) == split.document_digests([]) == []


def test_documents_that_are_mappings_are_prepared_as_they_are_read(integer_artifact):
    settings = Settings(document_template="{title}: {text}", document_cache=MANY)
    with Reranker.load(integer_artifact, settings=settings) as reranker:
        document = {"title": "Tides", "text": "are caused by the moon"}
        assert reranker.document_digests([document]) == reranker.document_digests(["Tides: are caused by the moon"])
        assert reranker.prepare([document])[0][0] == reranker.document_digests([document])[0]
        with pytest.raises(TypeError, match="documents"):
            reranker.prepare("a text")


def test_an_artifact_without_a_split_graph_says_that_nothing_can_be_prepared(reranker):
    assert reranker.document_states is None
    for ask in (reranker.prepare, reranker.document_digests):
        with pytest.raises(InputError, match=r"this artifact has no split graph, .*with a student of `resift distill --split`"):
            ask(["a"])


def test_a_store_that_no_graph_reads_is_named(artifact, integer_artifact, tmp_path, caplog):
    for folder, said in (
        (artifact, [f"the store {tmp_path} is not used: the artifact has no split graph"]),
        (integer_artifact, []),
    ):
        caplog.clear()
        Reranker.load(folder, settings=Settings(store=tmp_path)).close()
        assert [record.message for record in caplog.records if "store" in record.message] == said


def test_what_makes_the_bits_of_states_is_in_their_identity(integer_artifact, split, tmp_path, monkeypatch):
    copy = shutil.copytree(integer_artifact, tmp_path / "copy")
    (copy / "README.md").write_text("another card")

    def identity(folder):
        with Reranker.load(folder) as reranker:
            return reranker.document_states.identity

    assert identity(copy) == split.document_states.identity
    rewrite(copy, DOCUMENT_FILE, split_graphs.document_half().replace(b"half", b"both"))
    assert identity(copy) != split.document_states.identity
    monkeypatch.setattr("resift.machine.instruction_sets", lambda: {"another"})
    assert identity(integer_artifact) != split.document_states.identity


def test_the_identity_of_states_is_that_of_the_weights_which_the_document_half_reads(split_artifact, tmp_path):
    """Beside the card, the full graph, the query half and the certificate are others, and shared weights are in other places."""
    copy = shutil.copytree(split_artifact, tmp_path / "copy")
    move_shared_weights(copy)
    rewrite(copy, "certificate.json", (copy / "certificate.json").read_bytes() + b" ")
    with Reranker.load(split_artifact, settings=Settings(document_cache=0)) as reranker:
        store = prepared(reranker, tmp_path / "store", DOCUMENTS)
        right = look(reranker).logits.tolist()
    with Reranker.load(copy, settings=Settings(store=store, document_cache=0)) as reranker:
        scored = look(reranker)
        assert (scored.states, scored.logits.tolist()) == (StatesCounts(len(DOCUMENTS), 0, 0), right)


def move_shared_weights(folder):
    """Puts a field that says nothing before all others of the int8 full graph and query half, whose weights move with the rest."""
    import onnx

    full, query, document = (folder / f"{name}.onnx" for name in ("model.int8", "first-look.int8", "first-look.int8.document"))
    ahead = onnx.ModelProto(producer_name="another " * 50).SerializeToString()
    weights = {path.name: path.read_bytes() for path in (full, query)}
    rewrite(folder, full.name, ahead + weights[full.name])
    for path, before in ((query, ahead), (document, b"")):
        model = onnx.load(path, load_external_data=False)
        places = [{entry.key: entry for entry in tensor.external_data} for tensor in model.graph.initializer]
        for place in filter(None, places):
            name, begin, length = (place[key].value for key in ("location", "offset", "length"))
            content = weights[name][int(begin) : int(begin) + int(length)]
            place["offset"].value = str((folder / name).read_bytes().index(content))
            assert place["offset"].value != begin
        assert any(places)
        rewrite(folder, path.name, before + model.SerializeToString())


def test_each_weight_of_the_document_half_is_in_the_identity_of_states(split_artifact, tmp_path):
    import onnx

    copy = shutil.copytree(split_artifact, tmp_path / "copy")
    [graph] = [graph for graph in Artifact.open(copy).manifest.graphs if graph.split is not None]
    half = next(each for each in graph.variants if each.precision == "int8").document_half()
    right = Artifact.open(copy).graph_digest(half)
    model = onnx.load(copy / half.file, load_external_data=False)
    places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in model.graph.initializer]
    shared = [place for place in places if place]
    assert {place["location"] for place in shared} == set(half.weight_files())
    for place in shared:
        content = bytearray((copy / place["location"]).read_bytes())
        offset = int(place["offset"]) + int(place["length"]) - 1
        content[offset] ^= 1
        rewrite(copy, place["location"], bytes(content))
        assert Artifact.open(copy).graph_digest(half) != right
        content[offset] ^= 1
        rewrite(copy, place["location"], bytes(content))
    assert Artifact.open(copy).graph_digest(half) == right


def test_files_that_were_exchanged_under_a_loaded_model_give_no_identity(integer_artifact, tmp_path):
    """States that the loaded model computes would be kept as those of another."""
    copy = shutil.copytree(integer_artifact, tmp_path / "copy")
    with Reranker.load(copy) as reranker:
        rewrite(copy, DOCUMENT_FILE, split_graphs.document_half().replace(b"half", b"both"))
        with pytest.raises(ArtifactError, match="was changed or damaged"):
            _ = reranker.document_states.identity


def test_a_load_without_a_store_reads_no_weights_for_the_identity(integer_artifact, tmp_path, monkeypatch):
    monkeypatch.setattr(Artifact, "graph_digest", lambda *_: pytest.fail("read the weights"))
    with Reranker.load(integer_artifact) as reranker:
        assert look(reranker).states == StatesCounts(0, 0, len(DOCUMENTS))


def test_the_memory_of_one_owner_is_not_read_for_another(integer_artifact):
    with Reranker.load(integer_artifact, settings=Settings(document_cache=MANY)) as reranker:

        def counts(owner):
            call = asyncio.run(reranker.aencode(QUERY, DOCUMENTS[:4], plan=LOOK))
            call.states_owner = owner
            return reranker.submit_encoded(call).result().states

        found = [counts(owner) for owner in ("a", "b", "a", "")]
    assert found == [StatesCounts(0, 0, 4), StatesCounts(0, 0, 4), StatesCounts(0, 4, 0), StatesCounts(0, 0, 4)]


def test_a_document_half_that_fails_fails_the_call_alone(integer_artifact, monkeypatch):
    run = Session.run
    with Reranker.load(integer_artifact, settings=Settings(threads=1)) as reranker:
        bad = reranker.tokenizer.encode(QUERY, ["fails"]).document(0, 100)[0].tolist()

        def failing(self, batch):
            if self._size is not None and bad in batch["input_ids"].tolist():
                raise InferenceError("not this one")
            return run(self, batch)

        monkeypatch.setattr(Session, "run", failing)
        with ThreadPoolExecutor(4) as callers:
            fails = callers.submit(look, reranker, [*DOCUMENTS[:5], "fails"])
            works = [callers.submit(look, reranker, DOCUMENTS[:5]) for _ in range(3)]
            with pytest.raises(InferenceError, match="not this one"):
                fails.result(60)
            assert [each.result(60).logits.tolist() for each in works] == [oracle(reranker, DOCUMENTS[:5])] * 3


def test_a_lookup_that_fails_fails_the_call_and_not_the_engine(integer_artifact, monkeypatch):
    with Reranker.load(integer_artifact) as reranker:
        with monkeypatch.context() as patch:
            patch.setattr(reranker.document_states, "find", lambda digests, owner: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                look(reranker)
        assert look(reranker).logits.tolist() == oracle(reranker)


def test_a_cancelled_call_computes_no_further_document(integer_artifact, gate):
    opened, begun, rows = gate
    with Reranker.load(integer_artifact, settings=Settings(threads=1, token_budget=1)) as reranker:
        waiting = reranker.submit(QUERY, DOCUMENTS, plan=LOOK)
        assert begun.wait(60)
        assert waiting.cancel()
        opened.set()
        assert look(reranker, DOCUMENTS[:1]).logits.tolist() == oracle(reranker, DOCUMENTS[:1])
        assert len(rows) == 3  # the one that ran, and both halves of the last call
        assert reranker.queued.rows == 0


def test_closing_ends_a_call_in_any_phase(integer_artifact, gate):
    opened, begun, _ = gate
    reranker = Reranker.load(integer_artifact, settings=Settings(threads=1))
    waiting = reranker.submit(QUERY, DOCUMENTS, plan=LOOK)
    assert begun.wait(60)
    reranker.close()
    with pytest.raises(ClosedError, match="closed before the call finished"):
        waiting.result(60)
    opened.set()
    with pytest.raises(ClosedError):
        reranker.prepare(["a"])


@pytest.mark.parametrize("budget_ms", [0.001, 3.0, 12.0, 1e6])
def test_within_a_budget_what_was_scored_has_the_same_logits(split, budget_ms):
    right = oracle(split)
    for plan in (LOOK, f"{LOOK}:40,full"):
        scored = (
            look(split, budget_ms=budget_ms)
            if plan == LOOK
            else split.submit(QUERY, DOCUMENTS, plan=plan, budget_ms=budget_ms).result()
        )
        done = np.full(len(DOCUMENTS), len(scored.graphs)) if scored.stages_done is None else scored.stages_done
        by_look = [index for index in range(len(DOCUMENTS)) if done[index] and scored.graphs[done[index] - 1] == LOOK]
        assert scored.logits[by_look].tolist() == [right[index] for index in by_look]
        assert np.isnan(scored.logits[done == 0]).all()


@can_fork
@beside_threads
@pytest.mark.parametrize("used", [False, True])
def test_a_forked_child_reads_with_both_halves(integer_artifact, used):
    with Reranker.load(integer_artifact, settings=Settings(document_cache=MANY)) as reranker:
        right = oracle(reranker, DOCUMENTS[:6])
        if used:
            look(reranker, DOCUMENTS[:6])
        assert in_child(lambda: plain(look(reranker, DOCUMENTS[:6]))) == [right, [0, 0, 6]]
        assert look(reranker, DOCUMENTS[:6]).states == (StatesCounts(0, 6, 0) if used else StatesCounts(0, 0, 6))


def test_a_reranker_pickles_with_its_store(integer_artifact, split, tmp_path):
    store = prepared(split, tmp_path / "store", DOCUMENTS)
    with (
        Reranker.load(integer_artifact, settings=Settings(store=store)) as reranker,
        pickle.loads(pickle.dumps(reranker)) as again,
    ):
        assert look(again).states == StatesCounts(40, 0, 0)


def test_a_long_call_in_flight_holds_no_more_than_its_own_states(integer_artifact, monkeypatch):
    """Calls that wait hold none: a lookup comes with a call's turn."""
    held, opened, begun, run = [], threading.Event(), threading.Event(), Runner.__call__

    def waiting(self, batch):
        begun.set()
        assert opened.wait(60)
        return run(self, batch)

    monkeypatch.setattr(Runner, "__call__", waiting)
    with Reranker.load(integer_artifact, settings=Settings(threads=1, plan="full")) as reranker:
        opened.clear()
        calls = [asyncio.run(reranker.aencode(f"{QUERY} {number}", DOCUMENTS, plan=LOOK)) for number in range(8)]
        futures = [reranker.submit_encoded(call) for call in calls]
        assert begun.wait(60)
        held.append(sum(len(call.reading.states) for call in calls if call.reading is not None))
        opened.set()
        for future in futures:
            future.result(60)
        assert [call.reading for call in calls] == [None] * 8
    assert held == [0]


def broken(name):
    """A split artifact's file, with its manifest, that does not hold the graph that it should."""
    return {
        "another size": (DOCUMENT_FILE, split_graphs.document_half, {"size": 11}, "expected 11 components"),
        "query half as document half": (DOCUMENT_FILE, split_graphs.query_half, {}, "the graph reads"),
        "document half as query half": (QUERY_FILE, split_graphs.document_half, {}, "the graph reads"),
        "labels": (QUERY_FILE, lambda: split_graphs.query_half(2), {}, "expected 1 labels"),
    }[name]


@pytest.mark.parametrize("name", ["another size", "query half as document half", "document half as query half", "labels"])
def test_halves_that_contradict_the_manifest_are_refused_when_they_are_loaded(integer_artifact, tmp_path, name):
    file, make, how, said = broken(name)
    copy = shutil.copytree(integer_artifact, tmp_path / "copy")
    rewrite(copy, file, make())
    edit(copy, lambda manifest: manifest["graphs"][1]["split"].update(how))
    with Reranker.load(copy, plan="full") as reranker:
        assert len(reranker.rerank(QUERY, DOCUMENTS)) == 40
        with pytest.raises(ArtifactError, match=said):
            look(reranker)

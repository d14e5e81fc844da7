"""The graphs and the batches of CUDA, rehearsed on the CPU, which computes in float32 what it has no float16 kernel for.

What no CPU can show is what a GPU computes and how fast: `python -m benchmarks cuda` shows it.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import pickle
import re
import shutil
import time

import numpy as np
import onnxruntime
import pytest

from resift import ArtifactError, InferenceError, ProviderError, Reranker, Settings
from resift.artifact.certificate import Certificate
from resift.artifact.folder import Artifact
from resift.artifact.manifest import EXTENDED_FORMAT
from resift.artifact.variant import PackedGraph
from resift.cli.main import main
from resift.errors import OutOfMemoryError, is_out_of_memory
from resift.plans import Plan
from resift.runtime import binding, probe, providers
from tests.conftest import edit
from tests.support.tiny import texts

QUERY = "how do tides work"
POOL = [" ".join(text.split()[: 3 + number % 40]) for number, text in enumerate(texts()[1:101:2])]
HALF_BOUND = 0.01
"""As the documentation states: the largest error of a logit, as a share of the range of the certificate's logits."""


@pytest.fixture(scope="module")
def opened(masked_artifact):
    return Artifact.open(masked_artifact)


@pytest.fixture(scope="module")
def span(opened):
    return Certificate.read(opened).span


@pytest.fixture(scope="module")
def exact(opened):
    with Reranker(opened, settings=Settings(precision="float32", plan="full")) as loaded:
        yield loaded


@pytest.fixture(scope="module", autouse=True)
def tested(opened):
    """The artifact, rehearsed once: its self-test, which passes once, is no part of what the tests count."""
    Reranker(opened, rehearsed="cuda").close()


@pytest.fixture
def rehearse(opened):
    """rehearse(**settings): a Reranker that runs the batches of CUDA on the CPU."""
    loaded = []

    def load(artifact=opened, **settings):
        loaded.append(Reranker(artifact, settings=Settings(**settings), rehearsed="cuda"))
        return loaded[-1]

    yield load
    for each in loaded:
        each.close()


@pytest.fixture
def batches(monkeypatch):
    """The inputs of every batch that runs bound to a device, and that device."""
    seen, run = [], binding.run

    def watched(session, inputs, output, device):
        seen.append((device, {name: array.copy() for name, array in inputs.items()}))
        return run(session, inputs, output, device)

    monkeypatch.setattr(binding, "run", watched)
    return seen


def shapes(batches):
    return [inputs["input_ids"].shape for _, inputs in batches]


def test_a_pool_of_mixed_lengths_is_two_padded_batches(rehearse, exact, span, batches):
    reranker = rehearse()
    assert not batches
    lengths = reranker.submit(QUERY, POOL).result().lengths
    assert len(set(lengths.tolist())) > 20
    assert max(lengths) > 2 * min(lengths)
    assert len(batches) == 2
    assert sum(rows for rows, _ in shapes(batches)) == len(set(POOL))
    assert reranker.precision == "float16"
    np.testing.assert_allclose(reranker.logits(QUERY, POOL), exact.logits(QUERY, POOL), rtol=0, atol=HALF_BOUND * span)


def test_rows_are_padded_with_zeros_at_their_ends_which_the_mask_covers(rehearse, batches):
    reranker = rehearse()
    reranker.logits(QUERY, POOL)
    for _, inputs in batches:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        lengths = mask.sum(1)
        assert (mask == (np.arange(ids.shape[1]) < lengths[:, None])).all()
        assert (ids[mask == 0] == 0).all()
        assert (ids[np.arange(len(ids)), lengths - 1] == 3).all(), "[SEP]"
        assert ids.shape[1] == -(-lengths.max() // 16) * 16
        assert lengths.min() >= 0.25 * ids.shape[1] - 16


def test_a_bucket_is_not_wider_than_the_model_reads(rehearse, batches, masked_artifact, tmp_path):
    folder = shutil.copytree(masked_artifact, tmp_path / "shorter")
    edit(folder, lambda manifest: manifest["pair"].__setitem__("max_length", 91))
    reranker = rehearse(Artifact.open(folder))
    reranker.logits(QUERY, [" ".join(POOL)])
    assert shapes(batches) == [(1, 91)]


@pytest.mark.parametrize("company", [POOL[:1], POOL[::-1], POOL * 2])
def test_a_logit_depends_on_its_company_within_the_bound(rehearse, span, company):
    reranker = rehearse()
    single = reranker.logits(QUERY, [POOL[0]])[0]
    together = reranker.logits(QUERY, company)[company.index(POOL[0])]
    assert abs(together - single) < HALF_BOUND * span


def test_windows_are_rows_of_one_batch(rehearse, exact, span, batches):
    long = " ".join(POOL)
    settings = {"windows": 4, "max_length": 64}
    scored = rehearse(**settings).submit(QUERY, [long, POOL[0]]).result()
    assert scored.windows.tolist() == [4, 1]
    assert shapes(batches) == [(5, 64)]
    with Reranker(exact.artifact, settings=Settings(precision="float32", **settings)) as reranker:
        expected = reranker.submit(QUERY, [long, POOL[0]]).result()
    np.testing.assert_allclose(scored.logits, expected.logits, rtol=0, atol=HALF_BOUND * span)


def test_plans_run_both_graphs_in_float16(rehearse, exact, batches):
    reranker = rehearse()
    ranking = reranker.rerank(QUERY, POOL, top_k=3)
    assert {result.scored_by for result in ranking} == {"full"}
    assert all("attention_mask" in inputs for _, inputs in batches)
    rows = [count for count, _ in shapes(batches)]
    assert sum(rows) == len(set(POOL)) + 10
    assert reranker.variant_of("first-look").file == "first-look.float16.onnx"
    plan = Plan.parse("first-look:0.2,full")
    found, expected = (each.rerank(QUERY, POOL, plan=plan) for each in (reranker, exact))
    assert len({result.index for result in found[:10]} & {result.index for result in expected[:10]}) >= 9


def test_calls_that_wait_share_a_batch(rehearse, gate_of_bound):
    reranker = rehearse()
    opened, begun, rows = gate_of_bound
    first = reranker.submit(QUERY, POOL[:2])
    assert begun.wait(60)
    others = [reranker.submit(QUERY, [text]) for text in POOL[30:36]]
    opened.set()
    for each in (first, *others):
        each.result(60)
    assert len(rows) == 2
    assert rows[1] == 6


@pytest.fixture
def gate_of_bound(monkeypatch):
    """Like `gate`, for batches that are bound to a device."""
    import threading

    opened, begun, rows, run = threading.Event(), threading.Event(), [], binding.run

    def held(session, inputs, output, device):
        rows.append(len(inputs["input_ids"]))
        begun.set()
        assert opened.wait(60)
        return run(session, inputs, output, device)

    monkeypatch.setattr(binding, "run", held)
    yield opened, begun, rows
    opened.set()


def test_with_a_budget_the_best_rows_go_first_in_one_batch(rehearse, batches):
    reranker = rehearse()
    scored = reranker.submit(QUERY, POOL, plan="full", budget_ms=600_000).result()
    assert np.isfinite(scored.logits).all()
    assert shapes(batches) == [(len(set(POOL)), -(-scored.lengths.max() // 16) * 16)]


TOO_LARGE = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running MatMul node. "
    "bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer of size 1073741824"
)


SHORT_OF_MEMORY = {
    "the arena": TOO_LARGE,
    "gpu_mem_limit": "bfc_arena.cc:359 Extend Available memory of 4096 is smaller than requested bytes of 1048576",
    "CUDA": "CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaMalloc((void**)&p, size);",
    "cuBLAS": "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
    "cuDNN": "CUDNN failure 4002: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ; GPU=0",
}
OTHER_FAULTS = [
    "CUDA failure 700: an illegal memory access was encountered ; GPU=0",
    "CUDA failure 716: misaligned address ; GPU=0",
]


@pytest.mark.parametrize("where", SHORT_OF_MEMORY)
def test_a_shortage_of_memory_is_known_wherever_it_shows(where):
    assert is_out_of_memory(RuntimeError(SHORT_OF_MEMORY[where]))
    assert not any(is_out_of_memory(RuntimeError(text)) for text in OTHER_FAULTS)


@pytest.fixture
def memory(monkeypatch):
    """memory(tokens): batches of more tokens fail as onnxruntime does when the GPU's memory is short."""
    run = binding.run

    def limit(tokens):
        def limited(session, inputs, output, device):
            if inputs["input_ids"].size > tokens:
                raise RuntimeError(TOO_LARGE)
            return run(session, inputs, output, device)

        monkeypatch.setattr(binding, "run", limited)

    return limit


def test_a_batch_too_large_for_the_memory_is_halved_and_said(rehearse, memory, batches, caplog):
    reranker = rehearse()
    expected = reranker.logits(QUERY, POOL)
    largest = max(rows * width for rows, width in shapes(batches))
    memory(largest // 3)
    batches.clear()
    with caplog.at_level(logging.WARNING):
        found = reranker.logits(QUERY, POOL)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-2)
    halved = reranker.queued.halved
    assert halved >= 2
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == halved
    assert all("tokens from now on: onnxruntime failed on" in line and "memory is short" in line for line in said)
    limits = [int(line.split(" at most ")[1].split()[0]) for line in said]
    assert limits == sorted(limits, reverse=True)
    batches.clear()
    reranker.logits(QUERY, POOL)
    assert reranker.queued.halved == halved, "later batches are small from the start"
    assert all(rows * width <= limits[-1] for rows, width in shapes(batches))


def test_a_single_pair_too_large_for_the_memory_fails_its_call_only(rehearse, memory):
    reranker = rehearse()
    memory(64)
    long = reranker.submit(QUERY, [" ".join(POOL)])
    short = reranker.submit(QUERY, [POOL[0].split()[0]])
    with pytest.raises(OutOfMemoryError, match=r"^onnxruntime failed on 1 pairs of 192 tokens: memory is short"):
        long.result(60)
    assert np.isfinite(short.result(60).logits).all()
    assert issubclass(OutOfMemoryError, InferenceError)


def test_it_pickles_as_a_rehearsal(rehearse, exact):
    reranker = rehearse()
    with pickle.loads(pickle.dumps(reranker)) as again:
        assert again.precision == "float16"
        assert again.logits(QUERY, POOL[:3]).tolist() == reranker.logits(QUERY, POOL[:3]).tolist()


@pytest.mark.parametrize("settings", [{"precision": "float16"}, {"precision": "float16", "provider": "cpu"}])
def test_the_cpu_never_runs_float16(masked_artifact, settings):
    with pytest.raises(ProviderError, match=r"cpu does not run float16; ask for int8 or float32"):
        Reranker.load(masked_artifact, settings=Settings(**settings))


def test_the_cpu_takes_another_variant_of_the_artifact(exact):
    with Reranker(exact.artifact) as reranker:
        assert (reranker.provider, reranker.precision) == ("cpu", "float32")


@pytest.fixture
def cuda(monkeypatch):
    """The options with which sessions are created on what passes for CUDA: onnxruntime's CPU provider."""
    created, create, run = [], onnxruntime.InferenceSession, binding.run

    def session(source, options, providers, **keywords):
        ((name, provider_options),) = providers
        created.append(provider_options)
        return create(source, options, providers=[name], **keywords)

    def on_cpu(session, inputs, output, device):
        created.append(device)
        return run(session, inputs, output, binding.Device("cpu"))

    monkeypatch.setitem(providers.ORT_NAMES, "cuda", "CPUExecutionProvider")
    monkeypatch.setattr(probe, "find_lack", lambda provider: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(binding, "run", on_cpu)
    return created


def test_cuda_takes_float16_and_the_gpu_of_that_number(masked_artifact, cuda, exact, span):
    settings = Settings(provider="cuda:1", provider_options={"gpu_mem_limit": 1 << 30})
    with Reranker.load(masked_artifact, settings=settings) as reranker:
        assert (reranker.provider, reranker.precision, reranker.resolved.token_budget) == ("cuda", "float16", 1 << 15)
        found = reranker.logits(QUERY, POOL)
    np.testing.assert_allclose(found, exact.logits(QUERY, POOL), rtol=0, atol=HALF_BOUND * span)
    options = [each for each in cuda if isinstance(each, dict)]
    assert options
    assert all(each == {"device_id": "1", "gpu_mem_limit": str(1 << 30)} for each in options)
    assert {each for each in cuda if not isinstance(each, dict)} == {binding.Device("cuda", 1)}


def test_what_a_gpu_lacks_is_said_of_the_gpu(masked_artifact, cuda, monkeypatch):
    def fail(session, inputs, output, device):
        raise RuntimeError("CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaMalloc((void**)&p, size)")

    with Reranker.load(masked_artifact, settings=Settings(provider="cuda")) as reranker:
        monkeypatch.setattr(binding, "run", fail)
        with pytest.raises(OutOfMemoryError, match=r"the GPU's memory is short: use a smaller token_budget or max_length, raise"):
            reranker.logits(QUERY, POOL[:1])


def test_float32_on_cuda_is_never_padded(masked_artifact, cuda, batches):
    with Reranker.load(masked_artifact, settings=Settings(provider="cuda", precision="float32")) as reranker:
        scored = reranker.submit(QUERY, POOL).result()
    widths = {width for _, width in shapes(batches)}
    assert widths >= set(scored.lengths.tolist())
    assert all("attention_mask" not in inputs for _, inputs in batches)


@pytest.fixture
def can_pack(masked_artifact, tmp_path, toolchain):
    """can_pack(spoil): a copy of the artifact whose packed graph is one that this machine can run, changed by `spoil`."""
    import onnx_ir as ir

    from resift_export.graph.pack import pack
    from resift_export.graph.weights import save

    def make(spoil=lambda model: None):
        folder = shutil.copytree(masked_artifact, tmp_path / "packed")
        model = pack(ir.load(folder / "model.float16.onnx"), fuses=False)
        spoil(model)
        path = folder / "model.float16.packed.onnx"
        path.unlink()
        save(model, path)

        def replace_file(manifest):
            content = path.read_bytes()
            manifest["files"][path.name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            del next(each for each in manifest["graphs"][0]["variants"] if each.get("packed"))["packed"]["weights"]

        edit(folder, replace_file)
        return folder

    return make


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_packed_graph_shares_its_weights(opened):
    [variant] = [each for each in opened.manifest.full.variants if each.packed is not None]
    assert variant.packed == PackedGraph(file="model.float16.packed.onnx", weights="model.float16.onnx")
    sizes = [opened.manifest.files[file].size for file in ("model.float16.packed.onnx", "model.float16.onnx")]
    assert sizes[0] < sizes[1] / 2
    assert opened.manifest.recipe["packed"] is True
    assert "model.float16.packed.onnx computes no padding. A GPU runs it" in (opened.folder / "README.md").read_text()


@pytest.mark.skipif("CUDAExecutionProvider" in providers.available(), reason="the operator is there")
def test_a_packed_graph_that_cannot_be_loaded_gives_way_in_words(masked_artifact, cuda, caplog, exact, span):
    with (
        caplog.at_level(logging.WARNING),
        Reranker.load(masked_artifact, settings=Settings(provider="cuda")) as reranker,
    ):
        found = reranker.logits(QUERY, POOL)
        assert not reranker.is_packed
    np.testing.assert_allclose(found, exact.logits(QUERY, POOL), rtol=0, atol=HALF_BOUND * span)
    [said] = warnings_of(caplog)
    assert said.startswith("model.float16.packed.onnx is not used, and padding is computed: ")
    assert re.search(r"NOT_IMPLEMENTED.*PackedMultiHeadAttention", said)


def test_a_packed_graph_runs_on_cuda_if_it_computes_the_certificates_logits(can_pack, cuda, caplog, exact, span):
    folder = can_pack()
    with caplog.at_level(logging.WARNING), Reranker.load(folder, settings=Settings(provider="cuda")) as reranker:
        assert reranker.is_packed
        found = reranker.logits(QUERY, POOL)
    assert warnings_of(caplog) == []
    np.testing.assert_allclose(found, exact.logits(QUERY, POOL), rtol=0, atol=HALF_BOUND * span)
    with Reranker(Artifact.open(folder), rehearsed="cuda") as rehearsed:
        assert not rehearsed.is_packed
    assert main(["verify", str(folder), "--provider", "cuda", "--accept-bounds"]) == 0


def shift_logits(by):
    """What adds a number to all logits of a graph."""
    import onnx_ir as ir

    from resift_export.graph.edit import constant

    def spoil(model):
        output = model.graph.outputs[0]
        shifted = ir.node("Add", [output, constant(model, "shift", np.array(by, np.float32))])
        model.graph.insert_after(output.producer(), shifted)
        model.graph.outputs[0] = shifted.outputs[0]
        shifted.outputs[0].shape, shifted.outputs[0].type = output.shape, output.type
        output.name, shifted.outputs[0].name = "before_the_shift", output.name

    return spoil


@pytest.mark.parametrize(
    ("by", "said"),
    [
        (
            50.0,
            r"on this GPU does not compute what model\.float16\.onnx computed at export: the logits of 8 stored pairs differ by",
        ),
        (np.nan, r"the model returned \[nan\] for document 0"),
    ],
)
def test_a_packed_graph_that_computes_something_else_gives_way_in_words(can_pack, cuda, caplog, exact, span, by, said):
    folder = can_pack(shift_logits(by))
    with caplog.at_level(logging.WARNING), Reranker.load(folder, settings=Settings(provider="cuda")) as reranker:
        assert not reranker.is_packed
        found = reranker.logits(QUERY, POOL)
    [warning] = warnings_of(caplog)
    assert warning.startswith("model.float16.packed.onnx is not used, and padding is computed: ")
    assert re.search(said, warning)
    np.testing.assert_allclose(found, exact.logits(QUERY, POOL), rtol=0, atol=HALF_BOUND * span)


def test_a_packed_graph_that_nothing_can_be_compared_with_gives_way(can_pack, cuda, caplog):
    folder = can_pack()
    edit(folder, lambda manifest: manifest.pop("self_tests"))
    with caplog.at_level(logging.WARNING), Reranker.load(folder, settings=Settings(provider="cuda")) as reranker:
        assert not reranker.is_packed
    assert "the artifact stores no logits by which it can be tested" in warnings_of(caplog)[0]


def test_cuda_is_tested_at_every_load_with_several_lengths_in_one_batch(masked_artifact, cuda, monkeypatch):
    rows, run, wrong = [], binding.run, []

    def slow(session, inputs, output, device):
        lengths = inputs["attention_mask"].sum(1)
        if not rows:
            time.sleep(0.5)  # as the first batch of a GPU takes
        rows.append(lengths)
        return run(session, inputs, output, device) + sum(wrong)

    monkeypatch.setattr(binding, "run", slow)
    settings = Settings(provider="cuda", plan="full")
    Reranker.load(masked_artifact, settings=settings).close()
    assert sum(map(len, rows)) == 8
    assert max(len(set(lengths.tolist())) for lengths in rows) > 1
    wrong.append(50.0)
    with pytest.raises(ProviderError, match=r"on this GPU does not compute what model\.float16\.onnx .* or use the provider cpu$"):
        Reranker.load(masked_artifact, settings=settings)


def test_a_self_test_waits_where_few_tokens_may(masked_artifact, cuda):
    Reranker.load(masked_artifact, settings=Settings(provider="cuda", waiting_tokens=1)).close()


def test_every_input_begins_at_an_aligned_address():
    addresses = {}

    class Bound:
        def bind_input(self, name, kind, number, dtype, shape, address):
            content = np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_int64)), shape)
            addresses[name] = address, content.copy()

        def bind_output(self, name, kind):
            pass

        def copy_outputs_to_cpu(self):
            return ["logits"]

    class Session:
        def io_binding(self):
            return Bound()

        def run_with_iobinding(self, bound):
            pass

    inputs = {
        name: np.random.default_rng(1).integers(0, 99, size=(3, 7)) for name in ("input_ids", "token_type_ids", "attention_mask")
    }
    assert binding.run(Session(), inputs, "logits", binding.Device("cpu")) == "logits"
    first = addresses["input_ids"][0]
    assert [(address - first) % 256 for address, _ in addresses.values()] == [0, 0, 0]
    assert len({address for address, _ in addresses.values()}) == 3
    for name, array in inputs.items():
        np.testing.assert_array_equal(addresses[name][1], array)


def test_the_certificate_and_the_card_say_where_float16_was_measured(opened):
    certificate = Certificate.read(opened)
    assert set(certificate.places) == {"model.float16.onnx", "first-look.float16.onnx"}
    assert certificate.agreement["model.float16.onnx"].error < HALF_BOUND
    card = (opened.folder / "README.md").read_text()
    assert "| model.float16.onnx | CUDA | " in card
    assert "model.float16.onnx was measured on the CPU, which computes in float32 what it has no float16 kernel for" in card
    assert [variant.is_masked for graph in opened.manifest.graphs for variant in graph.variants] == [True, False] * 2
    assert opened.manifest.format == EXTENDED_FORMAT


def test_verify_measures_float16_where_cuda_is(masked_artifact, cuda, capsys):
    assert main(["verify", str(masked_artifact), "--provider", "cuda:0", "--accept-bounds"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("model.float16.onnx on 40 pools")
    assert "largest change of a logit since export (measured on the CPU, which" in shown


def test_a_signature_with_a_mask_is_refused(masked_artifact, tmp_path):
    folder = shutil.copytree(masked_artifact, tmp_path / "odd")
    edit(folder, lambda manifest: manifest["graphs"][0]["signature"]["inputs"].__setitem__("attention_mask", "int64"))
    with pytest.raises(ArtifactError, match="the signature of graph full has attention_mask; expected it in none"):
        Artifact.open(folder)


@pytest.mark.parametrize("change", [True, False])
def test_a_manifest_that_is_wrong_about_the_mask_is_refused_at_load(masked_artifact, tmp_path, change):
    folder = shutil.copytree(masked_artifact, tmp_path / "odd")

    def edit_variants(manifest):
        for variant in manifest["graphs"][0]["variants"]:
            variant["is_masked"] = change
            variant.pop("packed", None)

    edit(folder, edit_variants)
    with pytest.raises(ArtifactError, match=r"the graph reads .*attention_mask|expected .*attention_mask"):
        Reranker(Artifact.open(folder), settings=Settings(precision="float32" if change else "auto"), rehearsed="cuda")

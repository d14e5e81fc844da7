from __future__ import annotations

import onnxruntime
import pytest

from resift import ProviderError
from resift.artifact.variant import Variant
from resift.runtime import providers

CPU = ["CPUExecutionProvider"]
BOTH = ["CUDAExecutionProvider", "CPUExecutionProvider"]
FULL = ["int8", "float32"]
VNNI = Variant(file="model.int8-vnni.onnx", precision="int8", instruction_sets=["avx512_vnni"])
SAFE = Variant(file="model.int8.onnx", precision="int8", instruction_sets=[])
HALF = Variant(file="model.float16.onnx", precision="float16", instruction_sets=[], is_masked=True)
EXACT = Variant(file="model.float32.onnx", precision="float32", instruction_sets=[])


def choose(*arguments, starts=lambda provider: True, **keywords):
    return providers.choose(*arguments, starts=starts, **keywords)


def variants(precisions):
    return [{"int8": SAFE, "float16": HALF, "float32": EXACT}[precision] for precision in precisions]


@pytest.mark.parametrize(
    ("asked", "precision", "available", "offered", "chosen"),
    [
        ("auto", "auto", CPU, FULL, ("cpu", "int8")),
        ("auto", "auto", CPU, ["float32", "int8"], ("cpu", "int8")),
        ("auto", "auto", CPU, ["float32"], ("cpu", "float32")),
        ("auto", "float32", CPU, FULL, ("cpu", "float32")),
        ("auto", "auto", BOTH, FULL, ("cuda", "float32")),
        ("auto", "auto", BOTH[::-1], FULL, ("cuda", "float32")),
        ("auto", "auto", BOTH, ["int8"], ("cpu", "int8")),
        ("auto", "int8", BOTH, FULL, ("cpu", "int8")),
        ("cpu", "auto", BOTH, FULL, ("cpu", "int8")),
        ("cpu", "float32", BOTH, FULL, ("cpu", "float32")),
        ("cpu", "auto", CPU, ["int8"], ("cpu", "int8")),
        ("cuda", "auto", BOTH, FULL, ("cuda", "float32")),
        ("cuda", "float32", BOTH, ["float32"], ("cuda", "float32")),
        ("cuda", "auto", BOTH, ["float32", "float16"], ("cuda", "float16")),
        ("auto", "auto", BOTH, ["int8", "float16"], ("cuda", "float16")),
        ("auto", "auto", CPU, ["float16", "int8"], ("cpu", "int8")),
    ],
)
def test_choice_is_the_fastest_that_was_asked_for_and_is_there(asked, precision, available, offered, chosen):
    provider, variant = choose(asked, precision, available=available, variants=variants(offered))
    assert (provider, variant.precision) == chosen


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(FULL, ("cpu", "int8")), (["float32"], ("cpu", "float32")), (["float16", "int8"], ("cpu", "int8"))],
)
def test_auto_takes_cuda_only_where_it_starts(offered, chosen):
    provider, variant = choose("auto", "auto", available=BOTH, variants=variants(offered), starts=lambda provider: False)
    assert (provider, variant.precision) == chosen


@pytest.mark.parametrize(
    ("asked", "precision", "available", "offered"),
    [
        ("cuda", "auto", BOTH, FULL),  # it was asked for: its session is tried
        ("cpu", "auto", BOTH, FULL),
        ("auto", "auto", CPU, FULL),
        ("auto", "auto", BOTH, ["int8"]),  # there is nothing for it to run
        ("auto", "int8", BOTH, FULL),
    ],
)
def test_whether_cuda_starts_is_asked_only_where_it_decides(asked, precision, available, offered):
    def starts(provider):
        raise AssertionError(provider)

    choose(asked, precision, available=available, variants=variants(offered), starts=starts)


def test_auto_without_cuda_and_without_a_variant_for_the_cpu_says_both(monkeypatch):
    monkeypatch.setitem(providers.PRECISIONS, "cpu", ("int8",))
    with pytest.raises(ProviderError, match=r"^CUDAExecutionProvider does not start on this machine; cpu needs int8, but"):
        choose("auto", "auto", available=BOTH, variants=variants(["float32"]), starts=lambda provider: False)


@pytest.mark.parametrize("precision", ["auto", "int8"])
@pytest.mark.parametrize("given", [[VNNI, SAFE, EXACT], [EXACT, VNNI, SAFE], [VNNI, EXACT, SAFE]])
def test_of_several_variants_of_a_precision_the_first_is_taken(given, precision):
    assert choose("cpu", precision, available=CPU, variants=given) == ("cpu", VNNI)
    assert choose("cpu", precision, available=CPU, variants=given[::-1]) == ("cpu", SAFE)


def test_an_artifact_without_a_variant_for_this_machine_says_so():
    with pytest.raises(ProviderError, match="cpu needs int8 or float32, but this artifact has no graph for this machine: export"):
        choose("cpu", "auto", available=CPU, variants=[])


@pytest.mark.parametrize(
    ("asked", "precision", "available", "offered", "message"),
    [
        ("cuda", "auto", CPU, FULL, r"has no CUDAExecutionProvider \(it has CPUExecutionProvider\): .*onnxruntime-gpu"),
        ("cpu", "auto", ["CUDAExecutionProvider"], FULL, r"has no CPUExecutionProvider .*: reinstall onnxruntime"),
        ("cuda", "auto", BOTH, ["int8"], r"cuda needs float16 or float32, but this artifact has int8 .*--precision int8,float16$"),
        ("cuda", "int8", BOTH, FULL, r"cuda does not run int8; ask for float16 or float32"),
        ("cpu", "auto", BOTH, ["float16"], r"cpu needs int8 or float32, but this artifact has float16 .*--precision int8,float32$"),
        ("cpu", "float16", BOTH, ["float16"], r"cpu does not run float16; ask for int8 or float32"),
        ("auto", "float16", CPU, ["int8", "float16"], r"^cpu does not run float16"),
        (
            "cpu",
            "int8",
            CPU,
            ["float32"],
            r"int8 was asked for, but this artifact has float32 .*: choose another precision, or export",
        ),
        (
            "auto",
            "float32",
            CPU,
            ["int8"],
            r"^the precision float32 was asked for, but this artifact has int8 for this machine: choose",
        ),
        ("auto", "int8", BOTH, ["float32"], r"cuda does not run int8.*; the precision int8 was asked for"),
        ("auto", "auto", ["AzureExecutionProvider"], FULL, r"^the installed onnxruntime has no CPUExecutionProvider"),
    ],
)
def test_what_cannot_be_had_is_an_error_that_says_why(asked, precision, available, offered, message):
    with pytest.raises(ProviderError, match=message):
        choose(asked, precision, available=available, variants=variants(offered))


def test_available_are_onnxruntimes_own_names():
    assert "CPUExecutionProvider" in providers.available()


@pytest.mark.parametrize(
    ("installed", "oldest"),
    [("1.20.0", "1.20.0"), ("1.20.1", "1.20.0"), ("1.100.0", "1.20.0"), ("2.0.0", "1.99.9"), ("1.24.0.dev20250101", "1.24.0")],
)
def test_the_oldest_version_or_a_newer_one_is_accepted(monkeypatch, installed, oldest):
    monkeypatch.setattr(onnxruntime, "__version__", installed)
    providers.check_version(oldest)


@pytest.mark.parametrize(("installed", "oldest"), [("1.9.0", "1.20.0"), ("1.20.0", "1.20.1"), ("1.99.9+cu12", "2.0.0")])
def test_an_older_version_is_an_error_with_its_mend(monkeypatch, installed, oldest):
    monkeypatch.setattr(onnxruntime, "__version__", installed)
    with pytest.raises(ProviderError) as caught:
        providers.check_version(oldest)
    assert f"onnxruntime {installed} is installed, but this artifact needs {oldest} or newer: pip install" in str(caught.value)

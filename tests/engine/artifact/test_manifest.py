"""manifest.json: what it may say, and that everything else is refused by its name."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest

from resift import ArtifactError
from resift.artifact.folder import embedded
from resift.artifact.manifest import EXTENDED_FORMAT, FORMAT, MANIFEST, decode_manifest, format_of
from resift.artifact.signature import Signature

VNNI = [{"file": "model.int8-vnni.onnx", "precision": "int8", "instruction_sets": [name]} for name in ("avx512_vnni", "avx_vnni")]


def of_the_embedded():
    return json.loads((Path(embedded()["ms-marco-minilm-l12"]) / MANIFEST).read_bytes())


@pytest.fixture
def manifest():
    """The embedded model's, of the full graph alone."""
    found = of_the_embedded()
    return {**found, "graphs": [graph for graph in found["graphs"] if graph["role"] == "full"], "plan": None}


def read(manifest):
    return decode_manifest(json.dumps(manifest).encode())


def first_look(manifest, **changes):
    return {**json.loads(json.dumps(manifest["graphs"][0])), "name": "small", "role": "first-look", **changes}


def listed(manifest, *names):
    manifest["files"].update({name: {"size": 1, "sha256": "0" * 64} for name in names})


def test_the_embedded_manifest_says_what_the_model_is():
    found = read(of_the_embedded())
    assert found.format == FORMAT == 3
    assert [graph.name for graph in found.graphs] == ["full", "first-look"]
    assert found.full is found.graphs[0]
    assert (found.full.layers, found.full.relevance, found.full.activation) == (12, "logit", "identity")
    assert found.full.signature == Signature.of(labels=1, segment_ids=True)
    # Eleven layers in full; of the last, which the head reads at its first token, keys and values alone.
    hidden, intermediate = 384, 1536
    assert found.full.operations == 2 * (11 * (4 * hidden**2 + 2 * hidden * intermediate) + 2 * hidden**2)


def test_the_embedded_first_look_is_narrower_and_borrows_the_embeddings():
    found = read(of_the_embedded())
    look = found.graphs[1]
    assert (look.layers, look.signature) == (12, found.full.signature)
    assert look.operations < found.full.operations / 4
    assert [variant.weights for variant in look.variants] == ["model.int8.onnx"]


def test_several_graphs_and_variants_that_share_a_file(manifest):
    listed(manifest, "small.onnx", "model.int8-vnni.onnx")
    variant = {"file": "small.onnx", "precision": "int8", "instruction_sets": []}
    manifest["graphs"].insert(0, first_look(manifest, variants=[variant]))
    manifest["graphs"][1]["variants"][:0] = VNNI
    found = read(manifest)
    assert [graph.role for graph in found.graphs] == ["first-look", "full"]
    assert found.full.name == "full"
    assert [variant.file for variant in found.full.variants] == ["model.int8-vnni.onnx"] * 2 + ["model.int8.onnx"]


def borrowing(manifest, lender):
    listed(manifest, "small.onnx")
    variant = {"file": "small.onnx", "precision": "int8", "instruction_sets": [], "weights": lender}
    manifest["graphs"].append(first_look(manifest, variants=[variant]))


def test_a_graph_may_read_weights_from_anothers_file(manifest):
    borrowing(manifest, "model.int8.onnx")
    assert read(manifest).graphs[1].variants[0].weights == "model.int8.onnx"
    assert "weights" not in msgspec.to_builtins(read(manifest).full.variants[0])


@pytest.mark.parametrize("lender", ["other.onnx", "../model.int8.onnx", "/etc/passwd"])
def test_a_graph_reads_weights_from_listed_files_only(manifest, lender):
    borrowing(manifest, lender)
    with pytest.raises(ArtifactError, match=r"which its files lack|matching regex"):
        read(manifest)


def two_of_a_name(manifest):
    listed(manifest, "small.onnx")
    variant = {"file": "small.onnx", "precision": "int8", "instruction_sets": []}
    manifest["graphs"].append(first_look(manifest, name="full", variants=[variant]))


def second_full(manifest):
    manifest["graphs"].append(first_look(manifest, role="full"))


def no_full(manifest):
    manifest["graphs"] = [first_look(manifest)]


def shared_by_graphs(manifest):
    manifest["graphs"].append(first_look(manifest))


def shared_by_precisions(manifest):
    manifest["graphs"][0]["variants"].append({"file": "model.int8.onnx", "precision": "float32", "instruction_sets": []})


def graph(manifest):
    return manifest["graphs"][0]


SHORT = {"file": "short.onnx", "up_to": 16}


FROZEN = {"layers": 1, "whole_up_to": 32, "multiple": 8}


def frozen(manifest, **how):
    """Gives the full graph the input, and with any of `how` also the field, of frozen layers."""
    manifest["format"] = EXTENDED_FORMAT
    graph(manifest)["signature"]["inputs"]["updated_tokens"] = "int64"
    if how:
        graph(manifest)["frozen"] = {**FROZEN, **how}


def test_a_pair_alone_decides_how_many_of_its_tokens_a_frozen_graph_updates(manifest):
    frozen(manifest, multiple=8)
    how = read(manifest).full.frozen
    queries, lengths = np.array([[4, 33], [4, 32], [8, 40], [9, 40], [33, 40], [30, 40], [0, 40], [300, 512]], np.int32).T
    assert how.updated_tokens(queries, lengths).tolist() == [8, 32, 8, 16, 40, 32, 8, 304]


def test_a_frozen_graph_has_a_further_input(manifest):
    frozen(manifest, multiple=8)
    signature = read(manifest).full.signature
    assert list(signature.inputs) == ["input_ids", "token_type_ids", "updated_tokens"]
    assert signature.unfrozen() == Signature.of(labels=1, segment_ids=True)
    assert signature.unfrozen().frozen() == signature


def masked_and_frozen(manifest):
    frozen(manifest, multiple=8)
    graph(manifest)["variants"][0]["is_masked"] = True


def test_a_graph_that_earlier_releases_cannot_run_has_a_format_that_they_refuse(manifest):
    assert format_of(read(manifest).graphs) == FORMAT
    graph(manifest)["variants"][0]["is_masked"] = True
    assert format_of(read(manifest).graphs) == EXTENDED_FORMAT
    del graph(manifest)["variants"][0]["is_masked"]
    frozen(manifest, multiple=8)
    assert format_of(read(manifest).graphs) == EXTENDED_FORMAT


def packed(manifest):
    listed(manifest, "packed.onnx")
    graph(manifest)["variants"][0].pop("short", None)
    graph(manifest)["variants"][0].update(is_masked=True, packed={"file": "packed.onnx", "weights": "model.int8.onnx"})


def test_a_packed_graph_is_a_masked_variants_second(manifest):
    packed(manifest)
    [variant] = read(manifest).full.variants
    assert [(each.file, each.weights) for each in variant.graphs()] == [
        ("model.int8.onnx", None),
        ("packed.onnx", "model.int8.onnx"),
    ]
    assert all(each.packed is None and each.is_masked for each in variant.graphs())
    assert variant.of_width(1).file == "model.int8.onnx"
    assert format_of(read(manifest).graphs) == EXTENDED_FORMAT


def packed_without_mask(manifest):
    packed(manifest)
    del graph(manifest)["variants"][0]["is_masked"]


def packed_and_not_listed(manifest):
    packed(manifest)
    del manifest["files"]["packed.onnx"]


SPLIT = {
    "layers": 6,
    "query_tokens": 32,
    "document_tokens": 480,
    "multiple": 16,
    "size": 384,
    "query_operations": 1000,
    "reading_operations": 10,
}
HALVES = {
    "file": "small.onnx",
    "precision": "int8",
    "instruction_sets": [],
    "weights": "model.int8.onnx",
    "document": {"file": "small.document.onnx", "weights": ["small.onnx", "model.int8.onnx"]},
}


def split(manifest, *, variant=HALVES, how=SPLIT, **changes):
    """Adds a split first look."""
    listed(manifest, "small.onnx", "small.document.onnx")
    manifest["format"] = EXTENDED_FORMAT
    manifest["graphs"].append(first_look(manifest, variants=[json.loads(json.dumps(variant))], split=how, **changes))


def test_a_split_graph_has_two_files_and_a_format_of_its_own(manifest):
    split(manifest)
    found = read(manifest)
    assert format_of(found.graphs) == EXTENDED_FORMAT
    [variant] = found.graphs[1].variants
    query, document = variant.graphs()
    assert (query.file, query.weight_files()) == ("small.onnx", ["model.int8.onnx"])
    assert (document.file, document.weight_files()) == ("small.document.onnx", ["small.onnx", "model.int8.onnx"])
    assert (variant.of_width(1), variant.document_half()) == (query, document)
    assert query.document is document.document is None
    assert [found.row_of(file).max_length for file in ("small.onnx", "small.document.onnx", "model.int8.onnx")] == [32, 480, 512]
    assert read(json.loads(msgspec.json.encode(found))) == found


def test_a_documents_states_are_padded_to_a_width_that_follows_from_its_tokens(manifest):
    split(manifest)
    how = read(manifest).graphs[1].split
    assert [how.width_of(tokens) for tokens in (1, 16, 17, 480)] == [16, 16, 32, 480]


def test_the_signatures_of_both_halves_follow_from_the_graphs(manifest):
    split(manifest)
    signature = read(manifest).graphs[1].signature
    document, query = signature.document_half(), signature.query_half()
    assert (list(document.inputs), document.outputs) == (["input_ids", "token_type_ids"], {"states": "uint8"})
    assert query.outputs == {"logits": "float32"}
    assert query.inputs == {
        **dict.fromkeys(["input_ids", "token_type_ids", "query_of", "document_tokens"], "int64"),
        "states": "uint8",
    }


def halves_of_one_file(manifest):
    split(manifest, variant={**HALVES, "document": {"file": "small.onnx"}})


def full_and_split(manifest):
    listed(manifest, "small.document.onnx")
    graph(manifest)["split"] = SPLIT
    graph(manifest)["variants"][0].pop("short", None)
    graph(manifest)["variants"][0]["document"] = {"file": "small.document.onnx"}


def borrowed_by_short(manifest):
    listed(manifest, "short.onnx")
    graph(manifest)["variants"][0]["short"] = {**SHORT, "weights": "other.onnx"}


def test_a_pairs_length_alone_decides_which_graph_of_a_variant_scores_it(manifest):
    listed(manifest, "short.onnx")
    manifest["graphs"][0]["variants"][0]["short"] = {**SHORT, "weights": "model.int8.onnx"}
    [variant] = read(manifest).full.variants
    files = [(variant.of_width(width).file, variant.of_width(width).weights) for width in (1, 16, 17, 512)]
    assert files == [("short.onnx", "model.int8.onnx")] * 2 + [("model.int8.onnx", None)] * 2
    assert [each.file for each in variant.graphs()] == ["model.int8.onnx", "short.onnx"]
    assert all(each.short is None and each.precision == "int8" for each in variant.graphs())


def test_format_2_is_read_as_before(manifest):
    manifest["format"] = 2
    for variant in manifest["graphs"][0]["variants"]:
        variant.pop("short", None)
    [variant] = read(manifest).full.variants
    assert variant.short is None
    assert variant.graphs() == [variant]
    assert variant.of_width(1) == variant


SELF_TEST = {"bound": 0.4, "pairs": [{"query": "tides", "document": "the moon", "logit": 1.5}]}
REFUSED = {
    "format 1": (lambda m: m.update(format=1), "format 1; this resift reads formats 2 to 4: export the artifact again"),
    "format 5": (lambda m: m.update(format=5), "format 5; this resift reads formats 2 to 4: install a newer resift"),
    "a short graph not listed": (lambda m: graph(m)["variants"][0].update(short=SHORT), "its files lack short.onnx"),
    "a packed graph without a mask": (packed_without_mask, "model.int8.onnx has a packed graph and is not masked; expected both"),
    "a packed graph not listed": (packed_and_not_listed, "its files lack packed.onnx"),
    "weights of a short graph not listed": (borrowed_by_short, "read weights from other.onnx, which its files lack"),
    "a self-test of no file": (lambda m: m.update(self_tests={"other.onnx": SELF_TEST}), "has self-tests of other.onnx, which its"),
    "a self-test without pairs": (lambda m: m.update(self_tests={"model.int8.onnx": {**SELF_TEST, "pairs": []}}), "pairs"),
    "a self-test without a bound": (lambda m: m.update(self_tests={"model.int8.onnx": {**SELF_TEST, "bound": 0}}), "bound"),
    "a short graph for no pair": (lambda m: graph(m)["variants"][0].update(short={**SHORT, "up_to": 0}), "up_to"),
    "no graphs": (lambda m: m["graphs"].clear(), "graphs"),
    "two graphs of one name": (two_of_a_name, "graphs are named full, full; expected distinct names"),
    "two full graphs": (second_full, "2 graphs have the role full; expected one"),
    "no full graph": (no_full, "0 graphs have the role full; expected one"),
    "a file of two graphs": (shared_by_graphs, "share a file"),
    "a file of two precisions": (shared_by_precisions, "share a file"),
    "a file not listed": (lambda m: graph(m)["variants"].extend(VNNI), "its files lack model.int8-vnni.onnx"),
    "no certificate": (lambda m: m["files"].pop("certificate.json"), "its files lack certificate.json"),
    "a variant that is no graph": (lambda m: graph(m)["variants"][0].update(file="README.md"), "file"),
    "unknown role": (lambda m: graph(m).update(role="second"), "second"),
    "unknown input": (lambda m: graph(m)["signature"]["inputs"].update(pixel_values="int64"), "pixel_values"),
    "unknown type": (lambda m: graph(m)["signature"]["inputs"].update(input_ids="int32"), "int32"),
    "no token ids": (lambda m: graph(m)["signature"]["inputs"].pop("input_ids"), "expected input_ids and logits"),
    "no logits": (lambda m: graph(m)["signature"]["outputs"].clear(), "expected input_ids and logits"),
    "three labels": (lambda m: graph(m)["signature"].update(labels=3), "labels"),
    "another rule than its labels": (lambda m: graph(m).update(relevance="log-odds"), "expected logit, as its labels number 1"),
    "labels of another rule": (lambda m: graph(m)["signature"].update(labels=2), "expected log-odds, as its labels number 2"),
    "a plan": (lambda m: m.update(plans=[]), "unknown field `plans`"),
    "a prompt that is no text": (lambda m: m["pair"].update(prompt=7), "pair.prompt"),
    "a plan that is none": (lambda m: m.update(plan="first-look:0,full"), "a stage keeps 0"),
    "a plan that is no text": (lambda m: m.update(plan=["full"]), "plan"),
    "a full graph named as a first look": (
        lambda m: graph(m).update(name="first-look"),
        "a graph of the role full is named first-look; expected that of the first first-look graph",
    ),
    "no operations": (lambda m: graph(m).update(operations=0), "operations"),
    "operations beyond any model": (lambda m: graph(m).update(operations=10**309), "operations"),
    "frozen layers without their input": (lambda m: graph(m).update(frozen=FROZEN), "the field frozen; expected both"),
    "the input of frozen layers alone": (frozen, "the field frozen; expected both"),
    "nothing but frozen layers": (partial(frozen, layers=12), "has 12 frozen layers of 12; expected fewer"),
    "frozen layers and a mask": (masked_and_frozen, "graph full is frozen and its variant model.int8.onnx is masked; expected one"),
    "updated tokens in multiples of none": (partial(frozen, multiple=0), "multiple"),
    "updated tokens in multiples of any number": (partial(frozen, multiple=1 << 31), "multiple"),
    "a split graph in one file": (
        partial(split, variant={**HALVES, "document": None}),
        "is split and its variant small.onnx has no",
    ),
    "a document half of a graph that is not split": (
        partial(split, how=None),
        "small is not split and its variant small.onnx has a",
    ),
    "a document half not listed": (
        partial(split, variant={**HALVES, "document": {"file": "other.onnx"}}),
        "its files lack other.onnx",
    ),
    "weights of a document half not listed": (
        partial(split, variant={**HALVES, "document": {"file": "small.document.onnx", "weights": ["small.onnx", "other.onnx"]}}),
        "read weights from other.onnx, which its files lack",
    ),
    "three files of weights": (
        partial(split, variant={**HALVES, "weights": ["model.int8.onnx"] * 3}),
        "weights",
    ),
    "halves of one file": (halves_of_one_file, "small is split and halves share a file"),
    "a full graph that is split": (full_and_split, "graph full is split and full; expected one of them"),
    "a split graph that is masked": (
        partial(split, variant={**HALVES, "is_masked": True}),
        "small is split and its variant small.onnx is masked; expected one",
    ),
    "a split graph with another for short pairs": (
        partial(split, variant={**HALVES, "short": {"file": "short.onnx", "up_to": 16}}),
        "small is split and its variant small.onnx has a graph for short pairs; expected one",
    ),
    "a split after the last layer": (partial(split, how={**SPLIT, "layers": 12}), "is split after 12 layers of 12; expected fewer"),
    "no slot for a query": (partial(split, how={**SPLIT, "query_tokens": 0}), "query_tokens"),
    "states of no size": (partial(split, how={**SPLIT, "size": 0}), "size"),
    "states in multiples of any number": (partial(split, how={**SPLIT, "multiple": 1 << 20}), "multiple"),
    "a graph that reads states": (
        lambda m: graph(m)["signature"]["inputs"].update(states="uint8"),
        "signature of graph full has states; expected it in none",
    ),
    "a graph that returns states": (
        lambda m: graph(m)["signature"].update(outputs={"states": "uint8"}),
        "signature of graph full has states; expected it in none",
    ),
    "logits of another type": (lambda m: graph(m)["signature"].update(outputs={"logits": "uint8"}), "float32 for logits"),
    "token ids of another type": (lambda m: graph(m)["signature"]["inputs"].update(input_ids="uint8"), "expected int64"),
    "a longest pair beyond any model's": (partial(frozen, whole_up_to=1 << 31), "whole_up_to"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_it_may_not_say(manifest, change, message):
    change(manifest)
    with pytest.raises(ArtifactError, match=re.escape(message)) as caught:
        read(manifest)
    assert MANIFEST in str(caught.value)


def test_a_signature_feeds_what_the_graph_reads():
    given = {"input_ids": np.zeros((2, 3), np.int64), "token_type_ids": np.ones((2, 3), np.int64)}
    assert Signature.of(labels=1, segment_ids=True).feed(given) == given
    assert list(Signature.of(labels=2, segment_ids=False).feed(given)) == ["input_ids"]


def test_a_plan_is_text_or_left_out(manifest):
    assert read(manifest).plan is None
    assert b'"plan"' not in msgspec.json.encode(read(manifest))
    manifest["plan"] = "first-look:0.3,full"
    assert read(manifest).plan == "first-look:0.3,full"

"""The reference is the checkpoint: what its own files say counts, and not what a library makes of them on the way."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from resift import Reranker
from resift.errors import ExportError
from resift_export.checkpoint import load as checkpoint
from resift_export.convert import convert
from resift_export.recipe import Recipe
from tests.support import tiny

QUERY = "Where do RIVERS begin"
DOCUMENTS = [*tiny.texts()[1:20:3], "", "\ufb01ne \uff21\uff22\uff11", "  déjà vu  ", "short", "long " * 300]
TOLERANCE = 1e-4
by_5 = pytest.mark.skipif(transformers.__version__.startswith("4."), reason="transformers 4 reads tokenizer.json as it is")
BY_4 = {"transformers_version": "4.57.1"}


@pytest.fixture
def copy_of(checkpoint_of, tmp_path):
    """copy_of(family, tokenizer_class, ...): a checkpoint whose tokenizer_config.json has these fields; None: left out."""

    def make(family="bert", tokenizer_class=None, *, config=None, **settings):
        folder = shutil.copytree(checkpoint_of(family), tmp_path / "copy")
        if tokenizer_class is not None:
            settings["tokenizer_class"] = tokenizer_class
        change(folder / "tokenizer_config.json", **settings)
        change(folder / "config.json", **(config or {}))
        return folder

    return make


def change(path, **fields):
    content = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def renamed(folder, rename):
    weights = load_file(folder / "model.safetensors")
    save_file({rename(name): tensor for name, tensor in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})


def by_file(folder, *, segments=True):
    """Logits float32[n] of one pair at a time, encoded by the tokenizers library from the folder's tokenizer.json alone."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(tiny.MAX_LENGTH, strategy="only_second")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    reads = segments and getattr(model.config, "type_vocab_size", 0) > 1
    logits = []
    for document in DOCUMENTS:
        pair = tokenizer.encode(QUERY, document)
        inputs = {"input_ids": pair.ids} | ({"token_type_ids": pair.type_ids} if reads else {})
        with torch.inference_mode():
            logits.append(model(**{name: torch.tensor([ids]) for name, ids in inputs.items()}).logits[0, 0].item())
    return np.array(logits)


def assert_reads(loaded, folder, **options):
    """The artifact's tokenizer and the reference read what the folder's tokenizer.json says."""
    file = Tokenizer.from_file(str(folder / "tokenizer.json"))
    artifact = Tokenizer.from_buffer(loaded.tokenizer_json())
    for document in DOCUMENTS[:-1]:
        assert artifact.encode(QUERY, document).ids == file.encode(QUERY, document).ids
    np.testing.assert_allclose(loaded.reference(QUERY, DOCUMENTS), by_file(folder, **options), rtol=0, atol=TOLERANCE)


@by_5
@pytest.mark.parametrize(("family", "name"), [("xlm-roberta", "XLMRobertaTokenizer"), ("albert", "AlbertTokenizer")])
def test_a_class_that_rebuilds_the_tokenizer_does_not_count(copy_of, caplog, family, name):
    folder = copy_of(family, name)
    built = transformers.AutoTokenizer.from_pretrained(folder)
    file = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert any(built(text, QUERY)["input_ids"] != file.encode(text, QUERY).ids for text in DOCUMENTS[:-1] if text)
    assert_reads(checkpoint.load(str(folder)), folder)
    [message] = [record.getMessage() for record in caplog.records if record.name == "resift_export.checkpoint.tokenizer"]
    assert f"as a {name}, has other tokens than its tokenizer.json: '" in message
    assert message.endswith("tokenizer.json is what the artifact and the reference read")


@by_5
def test_texts_are_compared_as_well(copy_of, caplog):
    folder = copy_of("bert", "BertTokenizer")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["max_input_chars_per_word"] = 20  # the class has 100
    (folder / "tokenizer.json").write_text(json.dumps(content))
    for texts, warnings in (((), 0), (("the " + "th" * 15,), 1)):
        assert_reads(checkpoint.load(str(folder), texts=texts), folder)
        records = [record for record in caplog.records if record.name == "resift_export.checkpoint.tokenizer"]
        assert len(records) == warnings


@by_5
def test_a_class_that_cannot_read_the_file_is_refused_with_one_that_can(copy_of):
    folder = copy_of("bert", "XLMRobertaTokenizer")
    message = (
        r"has no tokenizer that transformers can load: .*; set tokenizer_class in tokenizer_config\.json to PreTrainedTokenizerFast"
    )
    with pytest.raises(ExportError, match=message):
        checkpoint.load(str(folder))
    change(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    assert_reads(checkpoint.load(str(folder)), folder)


@pytest.mark.parametrize(("family", "name"), [("bert", "BertTokenizer"), ("electra", "ElectraTokenizer")])
def test_an_option_that_contradicts_the_file_is_refused_with_the_tokens(copy_of, family, name):
    folder = copy_of(family, name, do_lower_case=False)
    message = (
        r"contradicts itself: tokenizer_config\.json has do_lower_case False, but the BertNormalizer of tokenizer\.json has "
        r"another lowercase, so 'Where do .*' gives \S+:\d+ .* by tokenizer\.json and \S+:\d+ .* by the class; expected the same"
    )
    with pytest.raises(ExportError, match=message):
        checkpoint.load(str(folder))


def test_an_option_that_no_class_reads_is_left_alone(copy_of, caplog):
    folder = copy_of(do_lower_case=False, add_prefix_space=True)
    with caplog.at_level(logging.WARNING):
        assert_reads(checkpoint.load(str(folder)), folder)
    assert not caplog.records


@pytest.mark.parametrize(
    "settings",
    [{"padding_side": "left"}, {"pad_token": None}, {"padding_side": "left", "pad_token": None}],
)
def test_padding_changes_no_reference(copy_of, settings):
    folder = copy_of(**settings)
    assert_reads(checkpoint.load(str(folder)), folder)


def test_what_tokenizer_json_cuts_and_pads_changes_no_reference(copy_of, checkpoint_of):
    folder = copy_of()
    padding = {"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    truncation = {"direction": "Right", "max_length": 32, "strategy": "LongestFirst", "stride": 0}
    change(folder / "tokenizer.json", padding=padding, truncation=truncation)
    found = checkpoint.load(str(folder)).reference(QUERY, DOCUMENTS)
    np.testing.assert_allclose(found, by_file(checkpoint_of("bert")), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("family", "name", "settings", "config", "segments"),
    [
        ("bert", None, {"model_input_names": ["input_ids", "attention_mask"]}, {}, False),
        ("bert", "BertTokenizer", {"model_input_names": ["input_ids", "attention_mask"]}, {}, False),
        ("bert", "BertTokenizer", {"model_input_names": None}, {}, True),
        ("bert", "PreTrainedTokenizerFast", {"model_input_names": None, "backend": None}, BY_4, True),
        ("albert", "AlbertTokenizer", {"model_input_names": None, "backend": None}, BY_4, True),
        ("albert", "AlbertTokenizer", {"model_input_names": None, "backend": None}, {"transformers_version": None}, True),
        ("albert", "AlbertTokenizer", {}, {}, True),
    ],
)
def test_segment_ids_are_those_of_the_training(copy_of, family, name, settings, config, segments):
    folder = copy_of(family, name, config=config, **settings)
    loaded = checkpoint.load(str(folder))
    assert loaded.signature.segment_ids == segments
    assert_reads(loaded, folder, segments=segments)
    assert np.abs(by_file(folder) - by_file(folder, segments=False)).max() > 100 * TOLERANCE
    loaded.tokenizer.save_pretrained(folder)  # as a student of it is saved
    assert checkpoint.load(str(folder)).signature.segment_ids == segments


@by_5
@pytest.mark.parametrize(("family", "name"), [("albert", "AlbertTokenizer"), ("bert", "TokenizersBackend")])
def test_segment_ids_that_cannot_be_known_are_refused(copy_of, family, name):
    folder = copy_of(family, name, model_input_names=None)
    message = (
        rf"does not say whether its model was trained with segment ids: tokenizer\.json has them, but {name} of transformers 5 "
        r'.*: add \["input_ids", "token_type_ids", "attention_mask"\], without token_type_ids if it was trained without them$'
    )
    with pytest.raises(ExportError, match=message):
        checkpoint.load(str(folder))


def test_an_artifact_of_a_model_trained_without_segment_ids_scores_as_it_does(copy_of, home, small_gate):
    folder = copy_of(model_input_names=["input_ids", "attention_mask"])
    with Reranker.load(convert(str(folder), home / "out", Recipe(precisions=("float32",), gate=small_gate))) as reranker:
        found = reranker.logits(QUERY, DOCUMENTS)
    np.testing.assert_allclose(found, by_file(folder, segments=False), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_input_names": 7}, r"has model_input_names 7 in tokenizer_config\.json; expected the names of the model's inputs"),
        ({"split_special_tokens": True}, r"reads a special token in a text as plain text .*: set it to false"),
        (
            {"model_max_length": 0},
            r"has model_max_length 0; expected a number of tokens: the longest pair that the model was trained",
        ),
        (
            {"model_max_length": 3},
            r"limits pairs too much: max_length is 3 tokens, .* expected at least 7, .*; set model_max_length in",
        ),
    ],
)
def test_settings_of_the_tokenizer_that_are_refused(copy_of, settings, message):
    with pytest.raises(ExportError, match=message):
        checkpoint.load(str(copy_of(**settings)))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_a_byte_order_mark_is_named(copy_of, name):
    folder = copy_of()
    (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    with pytest.raises(ExportError, match=rf"copy/{name} begins with a byte-order mark; expected UTF-8 without one"):
        checkpoint.load(str(folder))


MERGE = r"expected one whole model: load the adapter with PEFT and save what merge_and_unload\(\) returns"


@pytest.mark.parametrize("whole", [True, False], ids=["in its base's folder", "alone"])
def test_an_adapter_is_refused(copy_of, whole):
    folder = copy_of()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    for name in () if whole else ("config.json", "model.safetensors"):
        (folder / name).unlink()
    with pytest.raises(ExportError, match=rf"is an adapter, or has one \(adapter_config\.json\), .*; {MERGE}"):
        checkpoint.load(str(folder))


@pytest.mark.parametrize("kind", ["lora_A.default.weight", "base_layer.weight"])
def test_an_adapter_among_the_weights_is_refused(copy_of, kind):
    folder = copy_of()
    weights = load_file(folder / "model.safetensors")
    name = f"bert.encoder.layer.0.attention.self.query.{kind}"
    save_file({**weights, name: torch.ones(2, 2)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=rf"is an adapter, or has one \(the weights {name}\), .*; {MERGE}"):
        checkpoint.load(str(folder))


@pytest.mark.parametrize(
    ("prefix", "wrapper"),
    [("module.", "DataParallel or DDP"), ("_orig_mod.", r"torch\.compile"), ("model.", "a class around the model")],
)
def test_weights_of_a_wrapper_are_refused_with_its_name(copy_of, prefix, wrapper):
    folder = copy_of()
    renamed(folder, lambda name: f"{prefix}{name}")
    message = (
        rf"has the prefix '{prefix}' before the names of its weights, as {wrapper} saves them; .*: save the model that is inside"
    )
    with pytest.raises(ExportError, match=message):
        checkpoint.load(str(folder))


def test_a_head_of_another_name_is_named(copy_of):
    folder = copy_of()
    renamed(folder, lambda name: name.replace("classifier", "score"))
    message = (
        r"lacks the weights classifier\.bias, classifier\.weight of Bert\w+ and has score\.bias, score\.weight instead; expected"
    )
    with pytest.raises(ExportError, match=message):
        checkpoint.load(str(folder))


def test_shards_without_their_index_are_named(copy_of):
    folder = copy_of()
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    message = (
        r"has the weights model-00001-of-00001\.safetensors, but neither model\.safetensors nor model\.safetensors\.index\.json"
    )
    with pytest.raises(ExportError, match=message):
        checkpoint.load(str(folder))


@by_5
def test_a_pickle_of_a_whole_model_is_refused(copy_of):
    folder = copy_of()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model, folder / "pytorch_model.bin")
    with pytest.raises(ExportError, match=r"has a pickle of more than weights, .*: save the model with save_pretrained$"):
        checkpoint.load(str(folder), allow_pickle=True)


def test_an_activation_that_is_requested_counts_instead_of_one_that_is_declared(copy_of):
    folder = copy_of(config={"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.GELU"}})
    with pytest.raises(
        ExportError, match=r"declares the activation torch\.nn\.modules\.activation\.GELU .*--activation names the one"
    ):
        checkpoint.load(str(folder))
    for name in ("identity", "sigmoid"):
        assert checkpoint.load(str(folder), activation=name).activation == name
    with pytest.raises(ExportError, match=r"--activation declares the activation torch\.nn\.Softmax for 1 label; expected"):
        checkpoint.load(str(folder), activation="softmax")

"""Checkpoint: which folders can be loaded, which are refused with which error, and that the reference is the model itself."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from resift.errors import ExportError, InputError
from resift_export.checkpoint import load as checkpoint
from resift_export.checkpoint.load import load
from resift_export.checkpoint.transformers import max_length_of
from tests.support import tiny

IDENTITY = "torch.nn.modules.linear.Identity"
QUERY = "how do tides work"
UNLIMITED = SimpleNamespace(model_max_length=int(1e30))


@pytest.fixture(scope="module")
def bert(checkpoint_of):
    return load(str(checkpoint_of("bert")))


@pytest.fixture(scope="module")
def roberta(checkpoint_of):
    return load(str(checkpoint_of("roberta")))


@pytest.fixture
def folder(checkpoint_of, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(checkpoint_of("bert"), tmp_path / "copy")


@pytest.fixture
def untrained(checkpoint_of, tmp_path):
    """untrained(labels): a folder with random weights and the tiny tokenizer."""

    def make(labels):
        out = shutil.copytree(checkpoint_of("bert"), tmp_path / f"labels-{labels}")
        transformers.BertForSequenceClassification(tiny.config("bert", labels)).save_pretrained(out)
        return out

    return make


def test_declared_activation_reaches_the_checkpoint(folder):
    config = json.loads((folder / "config.json").read_text())
    assert load(str(folder)).activation == "sigmoid"
    (folder / "config.json").write_text(json.dumps({**config, "sentence_transformers": {"activation_fn": IDENTITY}}))
    assert load(str(folder)).activation == "identity"


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_max_length_is_the_longest_pair_the_model_reads(family, request):
    loaded = request.getfixturevalue(family)
    config = loaded.model.config
    expected = config.max_position_embeddings - (config.pad_token_id + 1 if family == "roberta" else 0)
    assert max_length_of(loaded.model, UNLIMITED) == expected == 192

    def score(width):
        with torch.inference_mode():
            return loaded.model(input_ids=torch.full((1, width), 9)).logits

    assert torch.isfinite(score(expected)).all()
    with pytest.raises((IndexError, RuntimeError)):
        score(expected + 1)


def test_max_length_heeds_the_tokenizer(bert):
    assert max_length_of(bert.model, SimpleNamespace(model_max_length=77)) == 77


def test_max_length_of_a_model_without_positions_is_the_tokenizers():
    model = torch.nn.Linear(1, 1)
    model.config = SimpleNamespace()
    assert max_length_of(model, SimpleNamespace(model_max_length=77)) == 77


def test_what_the_graph_reads(bert, roberta):
    assert bert.signature.inputs == {"input_ids": "int64", "token_type_ids": "int64"}
    assert roberta.signature.inputs == {"input_ids": "int64"}
    assert (bert.signature.labels, bert.relevance, bert.layers) == (1, "logit", 2)
    assert (bert.vocabulary, bert.revision, bert.id) == (tiny.VOCABULARY, None, bert.folder.resolve().name)


def test_name_replaces_the_folders(folder):
    assert load(str(folder), name="org/better").id == "org/better"


def test_folder_without_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ExportError, match=r"copy has no config\.json"):
        load(str(folder))


def test_pickle_is_read_only_if_trusted(folder, bert):
    (folder / "model.safetensors").unlink()
    torch.save(bert.model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ExportError, match=r"no safetensors weights.*pytorch_model\.bin.*--allow-pickle"):
        load(str(folder))
    texts = tiny.texts()[1:9:2]
    trusted = load(str(folder), allow_pickle=True)
    assert trusted.reference(QUERY, texts).tolist() == bert.reference(QUERY, texts).tolist()


def test_safetensors_come_first_even_if_pickle_is_trusted(folder, bert):
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    assert load(str(folder), allow_pickle=True).reference(QUERY, ["a"]).tolist() == bert.reference(QUERY, ["a"]).tolist()


def test_folder_without_any_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ExportError, match="no safetensors weights"):
        load(str(folder))
    with pytest.raises(ExportError, match=r"no safetensors or pickled weights; expected .*: save the model with save_pretrained$"):
        load(str(folder), allow_pickle=True)


@pytest.mark.parametrize("length", [4, 1000, -100])
def test_damaged_weights(folder, length):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:length])
    with pytest.raises(ExportError, match="copy"):
        load(str(folder))


def test_base_model_lacks_a_head(folder, bert):
    bert.model.base_model.save_pretrained(folder)
    with pytest.raises(ExportError, match=r"lacks the weights classifier\.bias, classifier\.weight of BertForSeq"):
        load(str(folder))


def test_three_labels(untrained):
    message = r"has 3 labels \(LABEL_0, LABEL_1, LABEL_2\); expected those of a reranker: 1 .*--relevant-label"
    with pytest.raises(ExportError, match=message):
        load(str(untrained(3)))


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("Qwen3ForCausalLM", r"is a generative model \(Qwen3ForCausalLM\), which scores a pair by .*use an encoder"),
        ("T5ForConditionalGeneration", r"is a generative model"),
        ("GPT2LMHeadModel", r"is a generative model"),
        ("BertForTokenClassification", r"is a BertForTokenClassification; expected a cross-encoder"),
        ("BertForMaskedLM", r"is a BertForMaskedLM; expected a cross-encoder"),
    ],
)
def test_another_kind_of_model_is_refused_with_what_to_use_instead(folder, architecture, message):
    name, change = changed("config.json", architectures=[architecture])
    (folder / name).write_text(change((folder / name).read_text()))
    with pytest.raises(ExportError, match=message) as caught:
        load(str(folder))
    assert "BAAI/bge-reranker-v2-m3" in str(caught.value)


def test_a_document_cut_at_its_beginning_is_refused(folder):
    name, change = changed("tokenizer_config.json", truncation_side="left")
    (folder / name).write_text(change((folder / name).read_text()))
    with pytest.raises(ExportError, match=r"cuts a long document at its beginning .*set truncation_side to right"):
        load(str(folder))


def test_how_the_tokenizer_cuts_a_long_document_is_compared(bert):
    def otherwise(query, document, **cut):
        return bert.tokenizer(query, document, **cut) if len(document) < 100 else bert.tokenizer(query, document[9:], **cut)

    otherwise.backend_tokenizer = bert.tokenizer.backend_tokenizer
    otherwise.model_input_names = bert.tokenizer.model_input_names
    with pytest.raises(ExportError, match=r"tokenizer\.json encodes a pair as"):
        checkpoint._check_tokenizer(replace(bert, tokenizer=otherwise))


def test_a_chat_template_is_refused(folder):
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ExportError, match=r"has a chat template, by which CrossEncoder joins a pair"):
        load(str(folder))


def test_slow_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CanineTokenizer"}')
    (folder / "vocab.txt").write_text("[PAD]\n")
    with pytest.raises(ExportError, match=r"slow tokenizer, CanineTokenizer; expected one with a tokenizer\.json"):
        load(str(folder))


@pytest.mark.parametrize("names", [["tokenizer.json"], ["tokenizer.json", "tokenizer_config.json"]], ids=["json", "all"])
def test_missing_tokenizer(folder, names):
    for name in names:
        (folder / name).unlink()
    with pytest.raises(ExportError, match="tokenizer"):
        load(str(folder))


def test_damaged_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "None"}}')
    with pytest.raises(ExportError, match="no tokenizer that transformers can load"):
        load(str(folder))


DEEP = "[" * 100_000 + "]" * 100_000


def changed(name, **fields):
    return name, lambda text: json.dumps({**json.loads(text), **fields})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *((name, lambda text: text[: text.rindex("}")] + f', "x": {DEEP}}}') for name in ("config.json", "tokenizer_config.json")),
        *((name, lambda text: DEEP) for name in ("config.json", "tokenizer.json", "tokenizer_config.json")),
        *((name, lambda text: "1") for name in ("config.json", "tokenizer.json", "tokenizer_config.json")),
        *((name, lambda text: "[]") for name in ("config.json", "tokenizer.json", "tokenizer_config.json")),
        changed("config.json", sentence_transformers="sigmoid"),
        changed("config.json", id2label="relevant"),
        changed("config.json", hidden_size="large"),
        changed("tokenizer_config.json", model_max_length="long"),
    ],
)
def test_malformed_json_is_one_clear_error(folder, name, change):
    (folder / name).write_text(change((folder / name).read_text()))
    with pytest.raises(ExportError) as caught:
        load(str(folder))
    assert str(folder) in str(caught.value) or name in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_tokenizer_that_knows_more_tokens_than_the_model(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["onemore"] = tiny.VOCABULARY
    (folder / "tokenizer.json").write_text(json.dumps(content))
    message = (
        f"copy has token ids up to {tiny.VOCABULARY}, but the model has {tiny.VOCABULARY} embeddings; expected one for every id"
    )
    with pytest.raises(ExportError, match=message):
        load(str(folder))


@pytest.mark.parametrize("source", ["a" * 5000, "org/" + "a" * 5000, "a\0b", "org/name\0"])
def test_a_name_that_can_be_neither_is_one_clear_error(source, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ExportError, match=r"neither a folder nor a hub id|cannot be downloaded from the hub") as caught:
        load(source)
    assert len(str(caught.value)) < 800


def test_a_folder_whose_name_is_not_utf8_is_one_clear_error(folder):
    odd = folder.rename(folder.with_name(os.fsdecode(b"odd\xff")))
    with pytest.raises(ExportError, match=r"cannot load .*odd.* is not valid UTF-8"):
        load(str(odd))


def test_a_name_to_record_is_text_that_json_can_hold(folder):
    assert load(str(folder), name="org/odd\udcff").id == "org/odd\\xff"


def test_a_folder_of_the_hubs_cache_has_its_commit(folder, tmp_path):
    cached = tmp_path / "models--org--tiny" / "snapshots" / ("0123abcd" * 5)
    shutil.copytree(folder, cached)
    loaded = load(str(cached), name="org/tiny")
    assert (loaded.id, loaded.revision) == ("org/tiny", "0123abcd" * 5)
    assert load(str(cached)).id == "0123abcd" * 5


def test_folder_has_no_revision(folder):
    with pytest.raises(ExportError, match="is a folder and has no revision main; leave --revision out"):
        load(str(folder), revision="main")


def test_hub_id_without_network(monkeypatch, tmp_path):
    def unreachable(*args, **kwargs):
        pytest.fail("asked the network in offline mode")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    with pytest.raises(ExportError, match=r"'some-org/some-reranker' is not a folder.*check the id"):
        load("some-org/some-reranker")


@pytest.mark.parametrize("source", ["no such folder", "a/b/c", "./missing/"])
def test_neither_folder_nor_hub_id(source, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ExportError, match=f"^'{source}' is neither a folder nor a hub id such as org/name"):
        load(source)


def test_a_connection_that_breaks_is_one_clear_error(monkeypatch):
    class RemoteProtocolError(Exception):
        """An error such as those of an HTTP library, which are not OSErrors."""

    def break_off(*_, **__):
        raise RemoteProtocolError("peer closed connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", break_off)
    with pytest.raises(ExportError, match=r"cannot be downloaded from the hub \(RemoteProtocolError: peer closed connection\);"):
        load("some-org/some-reranker")


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_hub_id_is_pinned_to_its_commit(checkpoint_of, monkeypatch, tmp_path, allow_pickle):
    request = {}

    def snapshot(source, **options):
        request.update(options, source=source)
        return str(shutil.copytree(checkpoint_of("bert"), tmp_path / "snapshots" / "0123abcd"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    loaded = load("org/reranker", revision="v1", allow_pickle=allow_pickle)
    assert (loaded.id, loaded.revision) == ("org/reranker", "0123abcd")
    assert (request["source"], request["revision"]) == ("org/reranker", "v1")
    assert ("pytorch_model*.bin" in request["allow_patterns"]) == allow_pickle
    assert "*.safetensors" in request["allow_patterns"]
    assert not any(pattern.endswith((".py", "*")) and pattern != "LICENSE*" for pattern in request["allow_patterns"])


def direct(loaded, query, documents):
    """Logits float32[n, labels], one pair at a time and therefore without padding and attention mask."""
    logits = []
    for document in documents:
        # Passed as lists: otherwise transformers treats an empty second text as missing.
        pair = loaded.tokenizer([query], [document], truncation="only_second", max_length=loaded.max_length, return_tensors="pt")
        with torch.inference_mode():
            logits.append(loaded.model(**{name: pair[name] for name in loaded.signature.inputs}).logits.numpy())
    return np.concatenate(logits)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_reference_is_the_model_called_directly(family, request):
    loaded = request.getfixturevalue(family)
    documents = [*tiny.texts()[1:60:3], "", "long " * 500]
    assert len(documents) > checkpoint.REFERENCE_PAIRS
    found = loaded.reference(QUERY, documents)
    assert found.dtype == np.float32
    assert np.ptp(found) > 0.5
    np.testing.assert_allclose(found, direct(loaded, QUERY, documents)[:, 0], rtol=0, atol=1e-5)


def test_reference_of_two_labels_is_their_log_odds(untrained):
    loaded = load(str(untrained(2)))
    documents = tiny.texts()[1:12:2]
    logits = direct(loaded, QUERY, documents)
    np.testing.assert_allclose(loaded.reference(QUERY, documents), logits[:, 1] - logits[:, 0], rtol=0, atol=1e-5)
    assert loaded.activation == "identity"


def test_references_of_pools_are_those_of_each_in_its_order(bert):
    texts = tiny.texts()
    pools = [("how do tides work", texts[:9]), ("rivers", []), ("why does bread rise", texts[20:31]), ("tides", texts[5:6])]
    reports = []
    found = bert.references(pools, lambda *progress: reports.append(progress))
    assert [len(logits) for logits in found] == [9, 0, 11, 1]
    for (query, documents), logits in zip(pools, found, strict=True):
        np.testing.assert_allclose(logits, bert.reference(query, documents), rtol=0, atol=1e-5)
    assert reports == [("reference", number, len(reports) - 1) for number in range(len(reports))]
    assert len(reports) > 2


@pytest.mark.parametrize(
    ("lengths", "batches"),
    [([], []), ([9000], [[0]]), ([8, 4, 8], [[1], [0, 2]]), ([5] * 17, [[*range(16)], [16]]), ([3000] * 3, [[0, 1], [2]])],
)
def test_a_batch_of_references_has_few_pairs_of_one_length(lengths, batches):
    assert checkpoint._batches(lengths) == batches


def test_references_pad_nothing(bert):
    masks = []
    # sentence-transformers calls the forward of the whole model, which runs no hooks.
    hook = bert.model.base_model.register_forward_pre_hook(lambda *call: masks.append(call[2]["attention_mask"]), with_kwargs=True)
    bert.references([(QUERY, tiny.texts()[1:90:3])])
    hook.remove()
    assert all(mask.all() for mask in masks)
    assert sum(len(mask) for mask in masks) == 30


def test_released_checkpoint_keeps_its_configuration_alone(source):
    loaded = checkpoint.load(source)
    before = (loaded.vocabulary, loaded.layers, loaded.signature, loaded.tokenizer_json())
    loaded.release()
    assert (loaded.vocabulary, loaded.layers, loaded.signature, loaded.tokenizer_json()) == before
    assert all(parameter.is_meta for parameter in loaded.model.parameters())
    if loaded.encoder is not None:
        assert all(parameter.is_meta for parameter in loaded.encoder.parameters())


def test_reference_of_no_documents(bert):
    assert bert.reference(QUERY, []).shape == (0,)


def test_reference_refuses_a_query_too_long(bert):
    # 192 - 3 special tokens leave 189, of which a quarter, 47, is for the document.
    word = next(word for word in QUERY.split() if len(bert.tokenizer(word, add_special_tokens=False)["input_ids"]) == 1)
    fits = " ".join([word] * 142)
    assert np.isfinite(bert.reference(fits, ["a document"])).all()
    with pytest.raises(InputError, match=rf"the query '{word} .*' is 1 tokens too long for {bert.id}"):
        bert.reference(f"{fits} {word}", ["a document"])


def test_tokenizer_json_neither_truncates_nor_pads(bert):
    bert.tokenizer([QUERY] * 2, ["a", "a longer one"], truncation="only_second", max_length=16, padding=True)
    content = json.loads(bert.tokenizer.backend_tokenizer.to_str())
    assert content["truncation"]
    assert content["padding"]
    saved = json.loads(bert.tokenizer_json())
    assert saved["truncation"] is saved["padding"] is None
    assert {**saved, "truncation": 0, "padding": 0} == {**content, "truncation": 0, "padding": 0}


def test_tokenizer_whose_pairs_differ_from_tokenizer_json_is_refused(bert):
    def doubled(query, document, **cut):
        return bert.tokenizer(query + query, document, **cut)

    doubled.backend_tokenizer = bert.tokenizer.backend_tokenizer
    doubled.model_input_names = bert.tokenizer.model_input_names
    checkpoint._check_tokenizer(bert)
    with pytest.raises(ExportError, match=r"tokenizer\.json encodes a pair as .* expected the same"):
        checkpoint._check_tokenizer(replace(bert, tokenizer=doubled))


def test_segments_are_compared_only_where_they_are_read(bert, roberta):
    for loaded, refused in ((bert, True), (roberta, False)):

        def flat(query, document, loaded=loaded, **cut):
            pair = loaded.tokenizer(query, document, **cut)
            return {**pair, "token_type_ids": [7] * len(pair["input_ids"])}

        flat.backend_tokenizer = loaded.tokenizer.backend_tokenizer
        flat.model_input_names = loaded.tokenizer.model_input_names
        if refused:
            with pytest.raises(ExportError, match="encodes a pair"):
                checkpoint._check_tokenizer(replace(loaded, tokenizer=flat))
        else:
            checkpoint._check_tokenizer(replace(loaded, tokenizer=flat))

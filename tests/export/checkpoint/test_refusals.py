"""Checkpoints that users mistake for cross-encoders: `resift export` says in one line what is wrong and how to mend it."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from resift.errors import ExportError
from resift_export.checkpoint import load as checkpoint
from tests.support import children, tiny

EXPORT = """
import os, sys
import resift_export.convert
from transformers import AutoTokenizer, BertForSequenceClassification, PreTrainedTokenizerFast  # imported once, not in each child
from resift.cli.main import main
for folder in sys.argv[2:]:
    child = os.fork()
    if not child:
        os._exit(main(["export", folder, sys.argv[1]]))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(2, b"code %d\\n" % code)
"""
ALTERNATIVES = "use an encoder with a scoring head, such as BAAI/bge-reranker-v2-m3"
GPT = {"n_embd": 64, "n_layer": 1, "n_head": 2, "vocab_size": tiny.VOCABULARY, "bos_token_id": 1, "eos_token_id": 1}
LLAMA = {**tiny.SIZE, "vocab_size": tiny.VOCABULARY, "num_hidden_layers": 1}
LLAMA.pop("initializer_range")


def model(make):
    """Saves make() in place of the classifier."""
    return lambda folder: make().save_pretrained(folder)


def without_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def pickle_only(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def module_of_its_own(folder):
    listed = [("sentence_transformers.base.modules.transformer.Transformer", ""), ("modeling_mine.Head", "1_Head")]
    entries = [{"idx": number, "name": str(number), "path": path, "type": kind} for number, (kind, path) in enumerate(listed)]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "config_sentence_transformers.json").write_text('{"model_type": "CrossEncoder"}')


def wider(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 256}))


def doubling(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    twice = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [twice] * 40}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def vast_tokenizer(folder):
    """A file with a hole that no memory holds."""
    os.truncate(folder / "tokenizer.json", 1 << 40)


def sharded(folder):
    """Stores all weights in a shard that an index names."""
    shard = folder / "model-00001-of-00001.safetensors"
    (folder / "model.safetensors").rename(shard)
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(shard), shard.name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pointer_to(name, *, beside=True):
    def replace(folder):
        if not beside:
            without_tokenizer(folder)
        (folder / name).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 133466304\n")

    return replace


POINTER = r" is a Git LFS pointer, not the file itself, .* `git lfs pull` in its folder$"


def configured(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return change


def of_type(kind):
    """Stores one matrix in another type, as quantizers do whose scales are in tensors of their own."""

    def change(folder):
        weights = load_file(folder / "model.safetensors")
        name = "bert.encoder.layer.0.intermediate.dense.weight"
        save_file({**weights, name: weights[name].to(kind)}, folder / "model.safetensors", metadata={"format": "pt"})

    return change


OWN_CONFIG = r"save the model's own config\.json with it"
ABOVE_0 = rf"in its config\.json; expected an integer above 0: {OWN_CONFIG}$"
TOO_LARGE = (
    rf"describes a model of [\d,]{{10,}} weights in its config\.json, but its files of weights have .* bytes; .*{OWN_CONFIG}"
)
CONFIGURED = {
    "no-heads": ({"num_attention_heads": 0}, rf"has num_attention_heads 0 {ABOVE_0}"),
    "negative-heads": ({"num_attention_heads": -4}, rf"has num_attention_heads -4 {ABOVE_0}"),
    "text-heads": ({"num_attention_heads": "4"}, "has num_attention_heads '4'|.*'num_attention_heads' expected int, got str"),
    "null-layers": ({"num_hidden_layers": None}, ".*(num_hidden_layers|NoneType)"),
    "float-layers": ({"num_hidden_layers": 2.5}, "has num_hidden_layers 2.5|.*'num_hidden_layers' expected int, got float"),
    "no-layers": ({"num_hidden_layers": 0}, rf"has num_hidden_layers 0 {ABOVE_0}"),
    "million-layers": ({"num_hidden_layers": 10**6}, "has num_hidden_layers 1000000 in config.json; expected at most 1000: save"),
    "billion-labels": ({"num_labels": 10**9}, "has num_labels 1000000000 in config.json; expected at most 1000: save"),
    "no-labels": ({"id2label": {}}, rf"has num_labels 0 {ABOVE_0}"),
    "label-list": ({"id2label": ["a"]}, r"has id2label \['a'\] in config\.json; expected an object with the name of each label"),
    "huge-hidden": ({"hidden_size": 10**6}, TOO_LARGE),
    "huge-vocabulary": ({"vocab_size": 10**12}, TOO_LARGE),
    "huge-positions": ({"max_position_embeddings": 10**12}, TOO_LARGE),
    "huge-segments": ({"type_vocab_size": 10**12}, TOO_LARGE),
    "huge-inner": ({"intermediate_size": 10**12}, TOO_LARGE),
    "many-layers": ({"num_hidden_layers": 1000}, TOO_LARGE),
    "no-vocabulary": ({"vocab_size": 0}, rf"has vocab_size 0 {ABOVE_0}"),
    "padding-beyond": ({"pad_token_id": 10**9}, ".*AssertionError: Padding_idx must be within"),
    "no-such-activation": ({"hidden_act": "nope"}, ".*KeyError: .*nope"),
    **{
        f"quantized-by-{method}": (
            {"quantization_config": {"quant_method": method, "bits": 4}},
            rf"has quantized weights \(quantization_config: {method}\); expected .*: export the checkpoint that it was",
        )
        for method in ("gptq", "awq", "bitsandbytes")
    },
}
MISTAKES = {
    **{name: (configured(**changes), rf" ?{message}") for name, (changes, message) in CONFIGURED.items()},
    "bi-encoder": (
        model(lambda: transformers.BertModel(tiny.config("bert"))),
        rf"lacks the weights classifier\.bias, classifier\.weight .*expected a trained sequence classifier .*: {ALTERNATIVES}",
    ),
    "gpt": (
        model(lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT))),
        rf"is a generative model \(GPT2LMHeadModel\).*: {ALTERNATIVES}",
    ),
    "llama": (
        model(lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))),
        rf"is a generative model \(LlamaForCausalLM\).*: {ALTERNATIVES}",
    ),
    "token-classifier": (
        model(lambda: transformers.BertForTokenClassification(tiny.config("bert"))),
        rf"is a BertForTokenClassification; expected a cross-encoder, a \.\.\.ForSequenceClassification: {ALTERNATIVES}",
    ),
    "no-tokenizer": (without_tokenizer, r"has no tokenizer; expected one of tokenizer\.json, .*: save the model's own tokenizer"),
    "doubling": (
        doubling,
        r": tokenizer\.json makes up to 1,024 characters of one, with the Replace .*: use the file that the model",
    ),
    "vast-tokenizer": (vast_tokenizer, r": .*it has more than 268435456 bytes: .*tokenizer\.json"),
    "pickle": (pickle_only, r"has no safetensors weights \(found: .*pytorch_model\.bin.*; save it .*--allow-pickle"),
    "pointer-to-weights": (pointer_to("model.safetensors"), rf"/model\.safetensors{POINTER}"),
    "pointer-to-tokenizer": (pointer_to("tokenizer.json"), rf"/tokenizer\.json{POINTER}"),
    "pointer-to-vocabulary": (pointer_to("vocab.txt", beside=False), rf"/vocab\.txt{POINTER}"),
    "pointer-to-config": (pointer_to("config.json"), rf"/config\.json{POINTER}"),
    "int8-weights": (
        of_type(torch.int8),
        r"/model\.safetensors has the weights bert\.\S+dense\.weight of the type I8; expected float32, .*: export the checkpoint",
    ),
    "int8-shard": (
        lambda folder: [of_type(torch.int8)(folder), sharded(folder)],
        r"/model-00001-of-00001\.safetensors has the weights bert\.\S+dense\.weight of the type I8; expected float32",
    ),
    "float8-weights": (
        of_type(torch.float8_e4m3fn),
        r".* of the type F8_E4M3; expected float32, .*: export the checkpoint that it",
    ),
    "own-code": (module_of_its_own, r"needs code of its own \(the module modeling_mine\.Head\), .*expected .*: look for"),
    "other-sizes": (
        wider,
        r"has weights of other sizes than its config\.json says \(the first of 6: bert\.\S+\); expected the same: save",
    ),
}


@pytest.fixture(scope="module")
def outcomes(checkpoint_of, tmp_path_factory):
    """By name of the mistake: the command's exit code and its lines on standard error. Only one process loads torch."""
    base = tmp_path_factory.mktemp("mistakes")
    folders = [shutil.copytree(checkpoint_of("bert"), base / name) for name in MISTAKES]
    for folder, (make, _) in zip(folders, MISTAKES.values(), strict=True):
        make(folder)
    done = children.run(
        [sys.executable, "-c", EXPORT, str(base / "out"), *map(str, folders)],
        capture_output=True,
        check=True,
        env={**os.environ, "CI": "true"},  # transformers then hands its warnings on after showing them
    )
    assert not (base / "out").exists()
    *parts, rest = re.split(r"^code (\d+)\n", done.stderr.decode(), flags=re.MULTILINE)
    assert rest == ""
    return {name: (int(code), text.splitlines()) for name, text, code in zip(MISTAKES, parts[::2], parts[1::2], strict=True)}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_clear_line(outcomes, name):
    code, lines = outcomes[name]
    lines = [line for line in lines if not line.startswith("[transformers] ")]  # a warning of its own
    assert code == 1
    assert len(lines) == 2, lines
    assert lines[0].startswith("load ")
    assert re.match(f"resift: .*{name} ?{MISTAKES[name][1]}", lines[1]), lines[1]


@pytest.mark.parametrize(
    ("family", "names"),
    [("xlm-roberta", ("sentencepiece.bpe.model", "README.md", "LICENSE")), ("bert", ("vocab.txt", "LICENSE.txt"))],
)
def test_pointers_in_place_of_files_that_nothing_reads_are_left_alone(checkpoint_of, tmp_path, family, names):
    folder = shutil.copytree(checkpoint_of(family), tmp_path / "copy")
    expected = checkpoint.load(str(folder)).reference("tides", ["a", "the moon and the sea"])
    for name in names:
        pointer_to(name)(folder)
    assert checkpoint.load(str(folder)).reference("tides", ["a", "the moon and the sea"]).tolist() == expected.tolist()


@pytest.mark.parametrize("change", [lambda _: None, sharded], ids=["one file", "shards"])
def test_weights_of_an_adapter_that_nothing_reads_may_be_of_any_type(checkpoint_of, tmp_path, change):
    folder = shutil.copytree(checkpoint_of("bert"), tmp_path / "copy")
    expected = checkpoint.load(str(folder)).reference("tides", ["a", "the moon and the sea"])
    change(folder)
    save_file({"x.weight": torch.zeros(3, 3, dtype=torch.int8)}, folder / "adapter_model.safetensors")
    assert checkpoint.load(str(folder)).reference("tides", ["a", "the moon and the sea"]).tolist() == expected.tolist()


def test_weights_that_the_model_does_not_read_are_one_warning(checkpoint_of, tmp_path, caplog):
    folder = shutil.copytree(checkpoint_of("bert"), tmp_path / "more")
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    classifier.save_pretrained(folder, state_dict={**classifier.state_dict(), "extra.weight": torch.ones(1)})
    checkpoint.load(str(folder))
    assert [record.getMessage() for record in caplog.records if record.name == "resift_export.checkpoint.loaded"] == [
        f"warning   {folder} has weights that its model does not read: extra.weight"
    ]


def test_a_revision_that_is_not_there(monkeypatch):
    import httpx
    from huggingface_hub.errors import RevisionNotFoundError

    def snapshot(source, **options):
        raise RevisionNotFoundError("404 Client Error.", response=httpx.Response(404, request=httpx.Request("GET", "https://hub")))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    message = r"^org/reranker has no revision 'v9' on the hub; expected a commit, tag or branch of it, or none for the latest"
    with pytest.raises(ExportError, match=message):
        checkpoint.load("org/reranker", revision="v9")


@pytest.mark.parametrize(
    "changes",
    [
        {"_attn_implementation": "flash_attention_2"},
        {"attn_implementation": "flash_attention_2"},
        {"_attn_implementation": "nope"},
        {"chunk_size_feed_forward": 7},
    ],
)
def test_what_a_configuration_asks_of_the_machine_is_left_out(checkpoint_of, tmp_path, changes):
    folder = shutil.copytree(checkpoint_of("bert"), tmp_path / "copy")
    expected = checkpoint.load(str(folder)).reference("tides", ["a", "the moon and the sea"])
    configured(**changes)(folder)
    loaded = checkpoint.load(str(folder))
    assert loaded.model.config._attn_implementation == "sdpa"
    assert loaded.reference("tides", ["a", "the moon and the sea"]).tolist() == expected.tolist()


@pytest.mark.parametrize(("length", "message"), [(-5, "has model_max_length -5"), (float("nan"), "has model_max_length nan")])
def test_a_tokenizer_of_no_length_is_refused(checkpoint_of, tmp_path, length, message):
    folder = shutil.copytree(checkpoint_of("bert"), tmp_path / "copy")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": length}))
    with pytest.raises(ExportError, match=rf"tokenizer_config\.json {message}; expected a number of tokens"):
        checkpoint.load(str(folder))

"""Forms in which checkpoints are saved, as public issues tell of them: scored as transformers does, or refused with the mend."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from resift.errors import ExportError
from resift_export.checkpoint import load as checkpoint
from tests.export.checkpoint.test_own_files import DOCUMENTS, QUERY, TOLERANCE, by_5, by_file, change, renamed
from tests.support import tiny

WEIGHTS, LAYER = "model.safetensors", "bert.encoder.layer.0"
AUTO_MAP = {"AutoModelForSequenceClassification": "org/code--modeling_own.OwnForSequenceClassification"}


@pytest.fixture
def folder(checkpoint_of, tmp_path):
    return shutil.copytree(checkpoint_of("bert"), tmp_path / "copy")


def configured(**fields):
    return lambda folder: change(folder / "config.json", **fields)


def weighted(alter, metadata=(("format", "pt"),)):
    """Stores what `alter` makes of the weights."""

    def save(folder):
        tensors = {name: tensor.contiguous() for name, tensor in alter(load_file(folder / WEIGHTS)).items()}
        save_file(tensors, folder / WEIGHTS, metadata=metadata and dict(metadata))

    return save


def with_weight(name, tensor):
    return weighted(lambda weights: {**weights, name: tensor})


def instead(*names):
    """Puts other files in the place of the weights."""

    def replace(folder):
        (folder / WEIGHTS).unlink()
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"content")

    return replace


def within(name):
    def move(folder):
        files = list(folder.iterdir())
        (folder / name).mkdir()
        for path in files:
            path.rename(folder / name / path.name)

    return move


def sharded(folder, *, pickled=False):
    """Stores the weights in two files and an index, as libraries do with large models."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    stem, index = ("pytorch_model", "pytorch_model.bin.index.json") if pickled else ("model", f"{WEIGHTS}.index.json")
    shards = {}
    for number, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2]), 1):
        shard = f"{stem}-0000{number}-of-00002.{'bin' if pickled else 'safetensors'}"
        part = {name: weights[name] for name in names}
        torch.save(part, folder / shard) if pickled else save_file(part, folder / shard, metadata={"format": "pt"})
        shards |= dict.fromkeys(names, shard)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": shards}))


def interrupted(*, pickled):
    """A download that lacks a shard."""

    def stop(folder):
        sharded(folder, pickled=pickled)
        next(folder.glob("*-00002-of-00002.*")).unlink()

    return stop


def dangling(name):
    """As in a copy of a hub cache's snapshot without its blobs."""

    def link(folder):
        (folder / name).unlink()
        (folder / name).symlink_to("../../blobs/0123")

    return link


def pruned(folder):
    """Without the second head of the first layer, as prune_heads of transformers 4 saved it."""
    change(folder / "config.json", pruned_heads={"0": [1]})
    size = tiny.SIZE["hidden_size"] // tiny.SIZE["num_attention_heads"]
    kept = [unit for unit in range(tiny.SIZE["hidden_size"]) if unit // size != 1]

    def cut(weights):
        for part in ("query", "key", "value"):
            for name in (f"{LAYER}.attention.self.{part}.weight", f"{LAYER}.attention.self.{part}.bias"):
                weights[name] = weights[name][kept]
        name = f"{LAYER}.attention.output.dense.weight"
        return {**weights, name: weights[name][:, kept]}

    weighted(cut)(folder)


def newer_tokenizers(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    change(folder / "tokenizer.json", model={**content["model"], "type": "OfALaterVersion"})


def altered(name, alter):
    return weighted(lambda weights: {**weights, name: alter(weights[name])})


def first_infinite(tensor):
    tensor[0, 0] = float("inf")
    return tensor


HUGGING, ST = "https://github.com/huggingface", "https://github.com/huggingface/sentence-transformers"
NO_WEIGHTS = r" has no safetensors weights, but "
CONVERTED = r"\); expected those of a PyTorch model: export the checkpoint that it was converted from$"
OTHER_MODEL = r"transformers \S+ does not read.* so its scores would be those of another model; expected "
COPY = r"/{} is a link to a file that is not there; expected the file: copy the folder with what its links lead to \(cp -L\)"
REFUSED = {
    f"{ST}/pull/3319 onnx": (instead("onnx/model.onnx"), rf"{NO_WEIGHTS}an ONNX graph \(onnx/model\.onnx{CONVERTED}"),
    f"{ST}/pull/3319 openvino": (
        instead("openvino_model.xml", "openvino_model.bin"),
        rf"{NO_WEIGHTS}an OpenVINO graph \(openvino_model\.xml{CONVERTED}",
    ),
    "https://github.com/xorbitsai/inference/issues/3766": (
        instead("model-Q4_K_M.gguf"),
        rf"{NO_WEIGHTS}GGUF \(model-Q4_K_M\.gguf{CONVERTED}",
    ),
    f"{HUGGING}/transformers/pull/18894 tensorflow": (
        instead("tf_model.h5"),
        rf"{NO_WEIGHTS}TensorFlow .*and from_tf=True, and save",
    ),
    f"{HUGGING}/transformers/pull/18894 flax": (instead("flax_model.msgpack"), rf"{NO_WEIGHTS}Flax .*and from_flax=True, and save"),
    f"{HUGGING}/accelerate/pull/2772": (
        instead("pytorch_model_fsdp_0/__0_0.distcp"),
        rf"{NO_WEIGHTS}the shards of FSDP \(pytorch_model_fsdp_0/__0_0\.distcp\).*: merge them with `accelerate merge-weights`$",
    ),
    "https://github.com/deepspeedai/DeepSpeed/issues/1394": (
        instead("global_step10/mp_rank_00_model_states.pt"),
        rf"{NO_WEIGHTS}the shards of DeepSpeed \(global_step10/mp_rank_00\S+\.pt\).*: merge them with its zero_to_fp32\.py$",
    ),
    "https://github.com/RUCKBReasoning/text2sql-schema-filter/issues/6": (
        instead("dense_classifier.pt"),
        rf"{NO_WEIGHTS}a pickle \(dense_classifier\.pt\).*: load it as it was saved, and save the model with save_pretrained$",
    ),
    f"{HUGGING}/transformers/issues/16955": (
        within("checkpoint-500"),
        r"copy has no config\.json, but is the folder of checkpoint-500; expected a checkpoint's own folder, .*/checkpoint-500$",
    ),
    f"{ST}/issues/662": (
        within("0_Transformer"),
        r" has no config\.json, but is the folder of 0_Transformer; expected .*0_Transformer$",
    ),
    "https://github.com/sgl-project/sglang/pull/32279": (
        interrupted(pickled=False),
        r"copy lacks model-00002-of-00002\.safetensors, which its model\.safetensors\.index\.json names; .*: download or copy",
    ),
    "https://github.com/sgl-project/sglang/pull/32279 pickles": (
        interrupted(pickled=True),
        r"copy lacks pytorch_model-00002-of-00002\.bin, which its pytorch_model\.bin\.index\.json names; .*: download or copy",
    ),
    f"{HUGGING}/huggingface_hub/issues/1388 weights": (dangling(WEIGHTS), COPY.format(r"model\.safetensors")),
    f"{HUGGING}/huggingface_hub/issues/1388 config": (dangling("config.json"), COPY.format(r"config\.json")),
    f"{HUGGING}/huggingface_hub/issues/1388 tokenizer": (dangling("tokenizer.json"), COPY.format(r"tokenizer\.json")),
    "https://github.com/FlagOpen/FlagEmbedding/issues/873": (
        altered(f"{LAYER}.intermediate.dense.weight", lambda _: torch.zeros(0)),
        r"has the weights \S+dense\.weight without any numbers, as DeepSpeed's ZeRO-3 leaves them; .*: merge the shards",
    ),
    f"{ST}/issues/3233": (
        altered(f"{LAYER}.intermediate.dense.weight", first_infinite),
        r"has the weights \S+dense\.weight with numbers that are infinite or NaN, .*; expected finite ones: export the checkpoint",
    ),
    "https://github.com/adapter-hub/adapters/issues/342": (
        with_weight(f"{LAYER}.output.adapters.mine.adapter_down.0.weight", torch.ones(4, 64)),
        rf"has weights in its layers that the Bert\w+ of {OTHER_MODEL}that class's weights alone",
    ),
    f"{HUGGING}/transformers/issues/12704": (
        configured(is_decoder=True),
        r"has is_decoder true in its config\.json, with which .*; expected false: set it so if the model was trained as an",
    ),
    f"{HUGGING}/tokenizers/issues/1297": (
        newer_tokenizers,
        r"untagged enum .*; it may be of a later version of tokenizers than \S+: pip install --upgrade tokenizers$",
    ),
    "https://github.com/huggingface/text-embeddings-inference/issues/304": (
        configured(auto_map=AUTO_MAP, position_embedding_type="alibi"),
        r"needs code of its own \(auto_map in its config\.json\), which resift never runs; expected an architecture that",
    ),
    "https://github.com/run-llama/llama_index/issues/17131": (
        lambda folder: [configured(auto_map=AUTO_MAP)(folder), renamed(folder, lambda name: name.replace("self.query", "Wq"))],
        r"needs code of its own \(auto_map in its config\.json\), which resift never runs; expected an architecture that",
    ),
}
REFUSED_BY_5 = {
    f"{HUGGING}/transformers/pull/41170": (
        configured(position_embedding_type="relative_key"),
        rf"has position_embedding_type 'relative_key' in its config\.json, which the Bert\w+ of {OTHER_MODEL}'absolute'",
    ),
    f"{HUGGING}/transformers/pull/41170 weights": (
        with_weight(f"{LAYER}.attention.self.distance_embedding.weight", torch.ones(383, 16)),
        rf"has weights in its layers that the Bert\w+ of {OTHER_MODEL}that class's weights alone",
    ),
    f"{HUGGING}/transformers/pull/41417": (
        pruned,
        r"has pruned heads \(pruned_heads in its config\.json\), which transformers \S+ does not read; .*: fill in zeros",
    ),
}


def refusal(folder):
    with pytest.raises(ExportError) as refused:
        checkpoint.load(str(folder), allow_pickle=any(folder.glob("*.bin.index.json")))
    return str(refused.value)


@pytest.mark.parametrize("form", REFUSED)
def test_a_form_that_would_not_be_scored_as_it_was_trained_is_refused(folder, form):
    make, message = REFUSED[form]
    make(folder)
    found = refusal(folder)
    assert re.search(message, found), found
    assert "\n" not in found


@by_5
@pytest.mark.parametrize("form", REFUSED_BY_5)
def test_what_transformers_no_longer_reads_is_refused(folder, form):
    make, message = REFUSED_BY_5[form]
    make(folder)
    found = refusal(folder)
    assert re.search(message, found), found
    assert "\n" not in found


def padded(folder):
    """With embeddings for a round number of tokens."""
    change(folder / "config.json", vocab_size=1216)
    altered("bert.embeddings.word_embeddings.weight", lambda tensor: torch.cat([tensor, torch.zeros(1216 - len(tensor), 64)]))(
        folder
    )


def of_a_trainer(folder):
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "trainer_state.json"):
        (folder / name).write_bytes(b"{}")


def of_an_encoder(folder):
    """With what is left of the embedding model that it was trained from; CrossEncoder does not read it either."""
    kinds = ("Transformer", ""), ("Pooling", "1_Pooling")
    modules = [{"idx": 0, "name": "0", "path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "config_sentence_transformers.json").write_text('{"__version__": {"sentence_transformers": "2.0.0"}}')
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32, "do_lower_case": false}')


def old_names(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


READ = {
    f"{HUGGING}/transformers/issues/11809": lambda folder: renamed(folder, old_names),
    "https://github.com/ml-explore/mlx/issues/743": weighted(dict, metadata=None),
    f"{HUGGING}/transformers/issues/25330": with_weight("bert.embeddings.position_ids", torch.arange(192)[None]),
    f"{HUGGING}/candle/pull/1888 without prefix": lambda folder: renamed(folder, lambda name: name.removeprefix("bert.")),
    f"{HUGGING}/text-embeddings-inference/issues/436": configured(architectures=[]),
    f"{ST}/issues/744": padded,
    f"{HUGGING}/transformers/issues/44450": of_a_trainer,
    "https://github.com/jundot/omlx/pull/2432": lambda folder: (folder / f"{WEIGHTS}.index.json").write_text(
        '{"weight_map": {"classifier.weight": "model-00001-of-00009.safetensors"}}'
    ),
    f"{ST}/issues/3044": of_an_encoder,
    "two shards": sharded,
    "two pickled shards": lambda folder: sharded(folder, pickled=True),
}


@pytest.mark.parametrize("form", READ)
def test_a_form_that_holds_the_same_weights_scores_as_they_do(folder, checkpoint_of, caplog, form):
    READ[form](folder)
    loaded = checkpoint.load(str(folder), allow_pickle="pickled" in form)
    found = loaded.reference(QUERY, DOCUMENTS)
    np.testing.assert_allclose(found, by_file(folder), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found, by_file(checkpoint_of("bert")), rtol=0, atol=TOLERANCE)
    assert not [record for record in caplog.records if record.name.startswith("resift_export")]


def test_code_that_the_weights_do_not_need_is_named(folder, checkpoint_of, caplog):
    change(folder / "config.json", auto_map=AUTO_MAP)
    found = checkpoint.load(str(folder)).reference(QUERY, DOCUMENTS)
    np.testing.assert_allclose(found, by_file(checkpoint_of("bert")), rtol=0, atol=TOLERANCE)
    [message] = [record.getMessage() for record in caplog.records if record.name.startswith("resift_export")]
    assert (
        "names code of its own (auto_map in its config.json), which resift never runs: its scores are those of the Bert" in message
    )


def vocabulary_alone(folder, capitals, **settings):
    """The form before tokenizer.json: vocab.txt, with or without settings."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    pieces = sorted(vocabulary, key=vocabulary.get)
    (folder / "vocab.txt").write_text("\n".join([*pieces[:-1], "Rivers" if capitals else pieces[-1]]) + "\n")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": tiny.MAX_LENGTH, **settings}))


@pytest.mark.parametrize(
    ("capitals", "settings", "warns"),
    [(True, {}, True), (True, {"do_lower_case": True}, False), (True, {"do_lower_case": False}, False), (False, {}, False)],
)
def test_a_vocabulary_alone_does_not_say_whether_case_counts(folder, caplog, capitals, settings, warns):
    # https://github.com/dmis-lab/biobert-pytorch/issues/24
    vocabulary_alone(folder, capitals, **settings)
    loaded = checkpoint.load(str(folder))
    built = transformers.AutoTokenizer.from_pretrained(folder)
    for document in DOCUMENTS[:-1]:
        ids = loaded.pair_tokenizer().encode(QUERY, [document]).row(0)[0]
        assert ids.tolist() == built([QUERY], [document])["input_ids"][0]
    messages = [record.getMessage() for record in caplog.records if record.name == "resift_export.checkpoint.tokenizer"]
    assert [("does not say whether case counts" in message, "such as Rivers" in message) for message in messages] == (
        [(True, True)] if warns else []
    )


@by_5
def test_heads_that_are_filled_in_with_zeros_are_left_out_again(folder, checkpoint_of):
    units = slice(16, 32)

    def silenced(weights):
        for part in ("query", "key", "value"):
            for name in (f"{LAYER}.attention.self.{part}.weight", f"{LAYER}.attention.self.{part}.bias"):
                weights[name][units] = 0
        weights[f"{LAYER}.attention.output.dense.weight"][:, units] = 0
        return weights

    weighted(silenced)(folder)
    change(folder / "config.json", pruned_heads={"0": [1]})
    loaded = checkpoint.load(str(folder))
    sizes = [layer.attention.self.query.out_features for layer in loaded.network().model.bert.encoder.layer]
    assert sizes == [48, 64]
    np.testing.assert_allclose(loaded.reference(QUERY, DOCUMENTS), by_file(folder), rtol=0, atol=TOLERANCE)

"""config: files of sentence-transformers count exactly where they count for CrossEncoder."""

from __future__ import annotations

import json
import logging

import pytest

from resift.errors import ExportError
from resift_export.checkpoint.config import ACTIVATIONS, check_kind, read_config

SIGMOID, IDENTITY, SOFTMAX, GELU = (
    f"torch.nn.modules.{name}" for name in ("activation.Sigmoid", "linear.Identity", "activation.Softmax", "activation.GELU")
)
MODULES = "sentence_transformers.base.modules"
CLASSIFIER = [{"idx": 0, "name": "0", "path": "", "type": f"{MODULES}.transformer.Transformer"}]
CLASSIFIES = {"transformer_task": "sequence-classification"}


def step(number, kind, path=None):
    return {"idx": number, "name": str(number), "path": f"{number}_{kind}" if path is None else path, "type": f"{MODULES}.x.{kind}"}


@pytest.fixture
def folder(tmp_path):
    """folder(config, ...): a folder with these files; modules=None writes no modules.json."""

    def make(config, settings=None, *, modules=CLASSIFIER, transformer=CLASSIFIES, model_type="CrossEncoder"):
        files = {"config.json": config, "modules.json": modules, "sentence_bert_config.json": transformer}
        if settings is not None:
            files["config_sentence_transformers.json"] = {"model_type": model_type, **settings}
        for name, content in files.items():
            if content is not None:
                (tmp_path / name).write_text(json.dumps(content))
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("config", "labels", "expected"),
    [
        ({"sentence_transformers": {"activation_fn": IDENTITY}}, 1, "identity"),
        ({"sentence_transformers": {"activation_fn": SIGMOID}}, 2, "sigmoid"),
        ({"sentence_transformers": {"activation_fn": SOFTMAX}}, 2, "sigmoid"),
        ({"sbert_ce_default_activation_function": IDENTITY}, 1, "identity"),
        ({"sbert_ce_default_activation_function": SIGMOID}, 2, "sigmoid"),
        ({"sentence_transformers": {"activation_fn": IDENTITY}, "sbert_ce_default_activation_function": SIGMOID}, 1, "identity"),
        ({"sentence_transformers": {"version": "5.0"}, "sbert_ce_default_activation_function": IDENTITY}, 1, "identity"),
        ({"sentence_transformers": {"activation_fn": None}, "sbert_ce_default_activation_function": IDENTITY}, 1, "sigmoid"),
        ({}, 1, "sigmoid"),
        ({}, 2, "identity"),
        ({"sbert_ce_default_activation_function": None}, 1, "sigmoid"),
    ],
)
def test_activation_of_config_json(folder, config, labels, expected):
    assert ACTIVATIONS[read_config(folder(config, modules=None)).scale(labels)] == expected
    assert ACTIVATIONS[read_config(folder(config, {})).scale(labels)] == expected


def test_activation_of_config_sentence_transformers_comes_first_where_modules_json_is(folder):
    config = {"sentence_transformers": {"activation_fn": SIGMOID}}
    settings = {"activation_fn": IDENTITY}
    assert read_config(folder(config, settings)).scale(1) == "Identity"
    assert read_config(folder(config, settings, model_type="SentenceTransformer")).scale(1) == "Sigmoid"
    (folder(config, settings) / "modules.json").unlink()
    assert read_config(folder(config, settings, modules=None)).scale(1) == "Sigmoid"


def test_an_activation_that_is_not_torchs_is_ignored_with_a_warning(folder, caplog):
    config = read_config(folder({"sbert_ce_default_activation_function": IDENTITY}, {"activation_fn": "modeling_mine.Sharp"}))
    with caplog.at_level(logging.WARNING):
        assert config.scale(1) == "Identity"
    assert "modeling_mine.Sharp, which is not torch's: ignored" in caplog.text


@pytest.mark.parametrize(("name", "labels"), [(GELU, 1), (SOFTMAX, 1)])
def test_an_activation_that_gives_no_score_is_refused(folder, name, labels):
    with pytest.raises(
        ExportError, match=rf"config_sentence_transformers.json declares the activation {name} for 1 label; expected"
    ):
        read_config(folder({}, {"activation_fn": name})).scale(labels)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"prompts": {"search": "find: "}, "default_prompt_name": "search"}, "find: "),
        ({"prompts": {"search": "find: "}, "default_prompt_name": None}, ""),
        ({"prompts": {"search": "find: "}}, ""),
        ({"prompts": {"search": None}, "default_prompt_name": "search"}, ""),
        ({"prompts": {"search": "žofie 🌊\n"}, "default_prompt_name": "search"}, "žofie 🌊\n"),
        ({}, ""),
    ],
)
def test_the_default_prompt(folder, settings, expected):
    assert read_config(folder({}, settings)).prompt() == expected


def test_a_prompt_by_name(folder):
    config = read_config(folder({}, {"prompts": {"search": "find: ", "ask": "answer: "}, "default_prompt_name": "search"}))
    assert [config.prompt(name) for name in (None, "ask", "search", "")] == ["find: ", "answer: ", "find: ", ""]
    with pytest.raises(ExportError, match="has no prompt 'other'; expected one of search, ask"):
        config.prompt("other")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": {"a": "x"}, "default_prompt_name": "b"}, "has no prompt 'b'; expected one of a"),
        ({"default_prompt_name": "b"}, r"expected one of \(none\)"),
        ({"prompts": ["x"], "default_prompt_name": "b"}, "expected texts by name"),
        ({"prompts": {"b": 7}, "default_prompt_name": "b"}, "expected texts by name"),
        ({"prompts": {"b": "x\ud800"}, "default_prompt_name": "b"}, "half of a surrogate pair"),
    ],
)
def test_a_prompt_that_cannot_be_applied(folder, settings, message):
    with pytest.raises(ExportError, match=message):
        read_config(folder({}, settings)).prompt()


def test_prompts_do_not_count_without_modules_json(folder):
    assert read_config(folder({}, {"prompts": {"a": "x"}, "default_prompt_name": "a"}, modules=None)).prompt() == ""


@pytest.mark.parametrize(
    ("transformer", "expected"),
    [
        ({"max_seq_length": 77}, 77),
        ({"processor_kwargs": {"model_max_length": 66}, "max_seq_length": None}, 66),
        ({"processing_kwargs": {"text": {"max_length": 55}}, "max_seq_length": 77}, 55),
        ({}, None),
    ],
)
def test_the_longest_pair(folder, transformer, expected):
    assert read_config(folder({}, {}, transformer={**CLASSIFIES, **transformer})).max_length == expected


@pytest.mark.parametrize("length", ["long", 0, -1, True, 1.5])
def test_a_longest_pair_that_is_no_number(folder, length):
    with pytest.raises(ExportError, match="expected a number of tokens"):
        _ = read_config(folder({}, {}, transformer={"max_seq_length": length})).max_length


def test_which_checkpoints_are_modular(folder):
    assert not read_config(folder({}, modules=None)).is_modular
    assert not read_config(folder({}, {})).is_modular
    assert read_config(folder({}, {}, transformer={"transformer_task": "feature-extraction"})).is_modular
    dense = [*CLASSIFIER, step(1, "Pooling")]
    assert read_config(folder({}, {}, modules=dense)).is_modular
    assert not read_config(folder({}, {}, modules=dense, model_type="SentenceTransformer")).is_modular


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([*CLASSIFIER, step(1, "Router")], "has Router as module 1; expected a Transformer first"),
        ([step(0, "Pooling")], "has Pooling as module 0"),
        ([*CLASSIFIER, step(1, "Transformer")], "has Transformer as module 1"),
        (
            [*CLASSIFIER, {"type": "modeling_mine.Head", "path": "1_Head"}],
            r"needs code of its own \(the module modeling_mine.Head\)",
        ),
        ([*CLASSIFIER, step(1, "Pooling", "../elsewhere")], "expected one inside the checkpoint's folder"),
        ([*CLASSIFIER, step(1, "Pooling", "/etc")], "expected one inside the checkpoint's folder"),
        ([step(0, "Transformer")], "has its Transformer in '0_Transformer'; expected it in the checkpoint's own folder"),
        ([{"type": 7, "path": ""}], "expected a module with path and type"),
        ([[]], "expected a module with path and type"),
        ({}, "expected a list"),
    ],
)
def test_modules_that_are_refused(folder, modules, message):
    with pytest.raises(ExportError, match=message):
        read_config(folder({}, {}, modules=modules))


@pytest.mark.parametrize(
    "activation", ["torch.hub.load", "os.system", "torch.nn.functional.gelu", "torch.nn.init", 7, "torch.utils.data.DataLoader"]
)
def test_a_dense_whose_activation_is_no_class_of_torch_nn(folder, activation):
    out = folder({}, {}, modules=[*CLASSIFIER, step(1, "Dense")])
    (out / "1_Dense").mkdir()
    (out / "1_Dense" / "config.json").write_text(json.dumps({"activation_function": activation}))
    with pytest.raises(ExportError, match=r"expected a class of torch\.nn, such as torch\.nn\.Tanh"):
        read_config(out)


def test_a_decoder_with_yes_and_no_logits_is_refused(folder):
    config = {"architectures": ["Qwen3ForCausalLM"]}
    checkpoint_config = read_config(
        folder(config, {}, modules=[*CLASSIFIER, step(1, "LogitScore")], transformer={"transformer_task": "text-generation"})
    )
    with pytest.raises(ExportError, match=r"^qwen is a generative model \(Qwen3ForCausalLM\).*yes and no.*use an encoder"):
        check_kind(checkpoint_config, "qwen")


def test_a_chat_template_of_the_transformer_module_is_refused(folder):
    transformer = {**CLASSIFIES, "modality_config": {"message": {"method": "forward"}}}
    with pytest.raises(ExportError, match="after a chat template"):
        check_kind(read_config(folder({"architectures": ["Qwen3ForSequenceClassification"]}, {}, transformer=transformer)), "qwen")


@pytest.mark.parametrize("architectures", [None, [], "x", [7], [None], ["BertForSequenceClassification"], ["BertModel"], {}])
def test_architectures_that_say_nothing_are_let_through(folder, architectures):
    check_kind(read_config(folder({"architectures": architectures}, modules=None)), "some")


@pytest.mark.parametrize("name", ["config.json", "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"])
@pytest.mark.parametrize("content", ["{", "7", "[" * 100_000, "\udcff", ""])
def test_malformed_files_are_one_clear_error(folder, name, content):
    out = folder({}, {})
    (out / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ExportError, match=name) as caught:
        read_config(out)
    assert len(str(caught.value)) < 600


def test_files_of_long_texts_are_refused_in_one_line(folder):
    long, config = "a\n\x1b[31m" * 20_000, {"architectures": ["BertForSequenceClassification"]}
    settings = {"activation_fn": SIGMOID, "prompts": {"a": "text"}, "default_prompt_name": "a"}
    cases = [
        ({"architectures": [f"{long}ForCausalLM"]}, settings, {}),
        ({"sentence_transformers": long}, {}, {}),
        (config, {"activation_fn": f"torch.{long}"}, {}),
        (config, {"default_prompt_name": long}, {}),
        (config, {"prompts": {long: 1, "a": "b"}, "default_prompt_name": "c"}, {}),
        (config, settings, {"modules": [step(0, long)]}),
        (config, settings, {"modules": [step(0, "Transformer", path=long)]}),
        (config, settings, {"modules": [{"path": "", "type": long}]}),
        (config, settings, {"transformer": {"max_seq_length": long}}),
        (config, settings, {"transformer": long}),
    ]
    for files, options, more in cases:
        with pytest.raises(ExportError) as caught:  # noqa: PT012
            found = read_config(folder(files, options, **more))
            check_kind(found, "source")
            assert found.scale(1)
            assert found.prompt()
            assert found.max_length is None
        assert str(caught.value).splitlines() == [str(caught.value)]
        assert len(str(caught.value)) <= 1000

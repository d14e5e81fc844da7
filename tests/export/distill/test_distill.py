"""Distillation: every family learns and exports, development pools are not trained on, and a recipe makes the student again."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from resift import Reranker, Settings
from resift.cli.main import parser
from resift.encoding.tokenizer import PairTokenizer
from resift.errors import ExportError, InputError
from resift.pools.reading import CandidatePool
from resift.pools.source import read_pools
from resift.retrieval.words import key_of
from resift_export.checkpoint import load as checkpoint
from resift_export.checkpoint.config import CheckpointConfig
from resift_export.checkpoint.layers import layers_of
from resift_export.convert import convert
from resift_export.distill import data as split_of
from resift_export.distill.batches import _width, padded_batches
from resift_export.distill.data import Draws, hash_fraction, read_split, sha256_of
from resift_export.distill.development import first_look_recall, labels_of
from resift_export.distill.device import device_of, fast_dtype
from resift_export.distill.distillation import distill
from resift_export.distill.options import WARMUP, Options, evenly_spaced
from resift_export.distill.recipe import decode_recipe
from resift_export.distill.student import (
    check_family,
    check_teacher,
    keep_activation,
    run,
    run_layers,
    squared_errors,
    student_of,
)
from resift_export.recipe import Recipe
from tests.support import tiny

FAMILIES = ("bert", "electra", "distilbert", "roberta", "xlm-roberta")
REFUSED_FAMILIES = {
    "albert": "all its layers are one",
    "mpnet": "position bias",
    "deberta-v2": "relative positions",
    "modernbert": "local attention",
}
OPTIONS = {"layers": 1, "pairs": 960, "evaluate": 320, "development": 0.2, "max_length": 64, "lr": 2e-3, "local": 0.5}
CPU = torch.device("cpu")


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    """Fifty pools of twelve documents, the first of each query labelled."""
    path = tmp_path_factory.mktemp("pools") / "pools.jsonl"
    texts = tiny.texts()
    rows = []
    for number in range(50):
        documents = [texts[(2 * number + 14 * place + 1) % len(texts)] for place in range(12)]
        candidates = [{"text": text, "label": int(not place)} for place, text in enumerate(documents)]
        rows.append({"query": texts[2 * number], "candidates": candidates})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def distilled(source, out, pools, **options):
    arguments = {
        "threads": 1,
        "device": "cpu",
        **{name: options.pop(name) for name in ("exclude", "start", "should_continue") if name in options},
    }
    return distill(str(source), out, [pools], Options(**(OPTIONS | options)), **arguments)


def learns(recipe) -> bool:
    """Whether the student approaches the teacher's hidden states, which determine the loss. Logits of unseen pairs may not improve:
    960 pairs are few, and the outputs of a tiny teacher depend on its random weights."""
    first, *_, last = (figures.train_hidden for figures in recipe.curve[1:])
    return last < 0.8 * first


@pytest.mark.parametrize("family", tiny.quickly("bert", of=FAMILIES))
def test_a_student_of_every_family_learns_and_exports(family, checkpoint_of, pools, tmp_path, small_gate):
    teacher = checkpoint.load(str(checkpoint_of(family)))
    recipe = distilled(checkpoint_of(family), tmp_path / "student", pools)
    assert learns(recipe)
    assert recipe.curve[0].logit_error != recipe.curve[-1].logit_error
    student = checkpoint.load(str(tmp_path / "student"))
    assert (student.layers, teacher.layers) == (1, 2)
    assert type(student.model) is type(teacher.model)
    assert (student.activation, student.max_length) == (teacher.activation, teacher.max_length)
    assert student.tokenizer_json() == teacher.tokenizer_json()
    embeddings = student.model.base_model.embeddings.state_dict()
    assert all(torch.equal(embeddings[name], value) for name, value in teacher.model.base_model.embeddings.state_dict().items())
    convert(str(tmp_path / "student"), tmp_path / "artifact", Recipe(precisions=("float32",), gate=small_gate))
    documents = tiny.texts()[1:30:3]
    with Reranker.load(tmp_path / "artifact", settings=Settings(precision="float32")) as reranker:
        found = reranker.logits("how do tides work", documents)
    np.testing.assert_allclose(found, student.reference("how do tides work", documents), rtol=0, atol=1e-4)


def test_a_student_of_two_labels(checkpoint_of, pools, tmp_path):
    recipe = distilled(checkpoint_of("bert", 2), tmp_path / "student", pools)
    assert learns(recipe)
    assert checkpoint.load(str(tmp_path / "student")).signature.labels == 2


@pytest.mark.parametrize(("family", "reason"), REFUSED_FAMILIES.items())
def test_other_families_are_refused_with_the_reason(family, reason, checkpoint_of, pools, tmp_path):
    with pytest.raises(ExportError, match=f"a {family} model cannot be distilled: .*{reason}.*expected one of bert, electra"):
        distilled(checkpoint_of(family), tmp_path / "student", pools)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("has", [{"prompt": "find: "}, {"is_modular": True}])
def test_a_teacher_whose_prompt_or_modules_would_be_lost_is_refused(has, checkpoint_of):
    with pytest.raises(ExportError, match="which a student would lose; expected a plain sequence classifier"):
        check_teacher(replace(checkpoint.load(str(checkpoint_of("bert"))), **has))


def test_a_student_keeps_an_activation_that_another_file_declares(checkpoint_of):
    teacher = checkpoint.load(str(checkpoint_of("bert")))
    student = student_of(teacher.model, [1])
    keep_activation(student, teacher)
    assert not hasattr(student.config, "sentence_transformers")
    keep_activation(student, replace(teacher, activation="identity"))
    assert CheckpointConfig(student.config.to_dict()).scale(1) == "Identity"


def test_a_family_nobody_thought_of_is_refused():
    model = torch.nn.Module()
    model.config = type("Config", (), {"model_type": "gpt-17"})
    with pytest.raises(ExportError, match="a gpt-17 model cannot be distilled"):
        check_family(model)


def batches_of(teacher, query="how do tides work"):
    tokenizer = PairTokenizer(teacher.tokenizer_json(), 64)
    return padded_batches(teacher, [tokenizer.encode(query, ["", "short", *tiny.texts()[1:40:2]])], CPU)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_apart_are_the_layers_together(family, attention, checkpoint_of):
    """For the teacher's own inputs, a copy of all its layers computes the teacher's outputs, with padding and without."""
    teacher = checkpoint.load(str(checkpoint_of(family)))
    teacher.model.set_attn_implementation(attention)
    copy = student_of(teacher.model, range(teacher.layers))
    has_no_mask = set()
    for batch in batches_of(teacher):
        with torch.no_grad():
            outputs = run(teacher.model, batch)
            found = run_layers(copy, batch, outputs.hidden_states[:-1])
            shifted = run_layers(copy, batch, outputs.hidden_states[1:])
        assert len(outputs.hidden_states) == teacher.layers + 1
        assert float(squared_errors(found, outputs.hidden_states[1:], batch, [1.0] * teacher.layers)) < 1e-9
        assert float(squared_errors(shifted, outputs.hidden_states[1:], batch, [1.0] * teacher.layers)) > 1e-3
        has_no_mask.add(batch.mask is None)
    assert False in has_no_mask


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_logit(family, checkpoint_of):
    teacher = checkpoint.load(str(checkpoint_of(family)))
    documents = ["", "short", *tiny.texts()[1:40:2]]
    found = torch.empty(len(documents))
    for batch in batches_of(teacher):
        with torch.no_grad():
            found[batch.rows] = run(teacher.model, batch).logits[:, 0]
    encodings = PairTokenizer(teacher.tokenizer_json(), 64).encode("how do tides work", documents)
    for number in range(len(encodings)):
        ids, segments = encodings.row(number)
        row = {"input_ids": ids, "token_type_ids": segments}
        inputs = {name: torch.tensor(row[name][None].astype(np.int64)) for name in teacher.signature.inputs}
        with torch.no_grad():
            assert float(teacher.model(**inputs).logits) == pytest.approx(float(found[number]), abs=1e-4)


@pytest.mark.parametrize(
    ("longest", "positions", "width"), [(17, 192, 32), (32, 192, 32), (150, 192, 160), (161, 192, 161), (35, 72, 40), (5, 20, 5)]
)
def test_widths_are_rounded_up_where_there_are_positions(longest, positions, width):
    """32 positions remain for the document of a split student, which stands later than in a pair."""
    assert _width(longest, positions) == width


@pytest.mark.parametrize("positions", [40, 75])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_position_is_read_that_the_model_lacks(family, positions, checkpoint_of):
    """Every length up to the last position, beside the same pairs one by one."""
    teacher = checkpoint.load(str(checkpoint_of(family)))
    config = tiny.config(family)
    config.max_position_embeddings -= tiny.MAX_LENGTH - positions
    few = replace(teacher, model=transformers.AutoModelForSequenceClassification.from_config(config).eval())
    documents = [" the" * count for count in range(0, positions, 2)]
    encodings = PairTokenizer(teacher.tokenizer_json(), positions).encode("tides", documents)
    assert encodings.lengths.max() == positions
    widths, count = set(), 0
    for batch in padded_batches(few, [encodings], CPU, size=3):
        with torch.no_grad():
            found = run(few.model, batch).logits
        widths.add(batch.inputs["input_ids"].shape[1])
        for index, row in enumerate(batch.rows):
            inputs = {name: values[index : index + 1, : encodings.lengths[row]] for name, values in batch.inputs.items()}
            with torch.no_grad():
                torch.testing.assert_close(few.model(**inputs).logits[0], found[index], rtol=0, atol=1e-4)
            count += 1
    assert count == len(encodings)
    assert max(widths) == positions


def test_errors_count_tokens_and_no_padding(checkpoint_of):
    teacher = checkpoint.load(str(checkpoint_of("bert")))
    batch = next(batch for batch in batches_of(teacher) if batch.mask is not None)
    zeros = torch.zeros(*batch.mask.shape, 3)
    ones = zeros + 1
    assert float(squared_errors([ones, ones], [zeros, zeros], batch, [1.0, 0.5])) == pytest.approx(1.5 * batch.tokens)
    assert float(squared_errors([ones * (1 - batch.mask)[..., None]], [zeros], batch, [1.0])) == 0.0


def test_only_layers_and_head_are_trained(checkpoint_of):
    for family in FAMILIES:
        student = student_of(checkpoint.load(str(checkpoint_of(family))).model, [1])
        frozen = {name for name, value in student.named_parameters() if not value.requires_grad}
        assert frozen == {name for name, _ in student.named_parameters() if "embeddings" in name}
        assert len(layers_of(student)) == 1


def test_a_student_starts_as_the_kept_layers(checkpoint_of):
    teacher = checkpoint.load(str(checkpoint_of("bert"))).model
    student = student_of(teacher, [1])
    student_layer, teacher_layer = layers_of(student)[0].state_dict(), layers_of(teacher)[1].state_dict()
    assert all(torch.equal(student_layer[name], teacher_layer[name]) for name in teacher_layer)
    assert len(layers_of(teacher)) == 2


class TestData:
    @pytest.fixture
    def files(self, tmp_path):
        """Two files in which queries recur in other spelling, and a file of queries to leave out."""
        rows = [{"query": f"what is number {number}", "documents": ["a", "b", "c"]} for number in range(300)]
        again = [{"query": f"What is  NUMBER {number}?", "documents": ["d", "e"]} for number in range(300)]
        small = [{"query": "nothing", "documents": []}, {"query": "alone", "documents": ["a"]}]
        first, second, third = (tmp_path / f"{name}.jsonl" for name in ("first", "second", "third"))
        first.write_text("".join(json.dumps(row) + "\n" for row in rows + small))
        second.write_text("".join(json.dumps(row) + "\n" for row in again))
        third.write_text(
            "".join(json.dumps({"query": f"what is number {number} ?", "more": 1}) + "\n" for number in range(0, 300, 3))
        )
        return [first, second], third

    def test_no_query_is_both_trained_on_and_measured(self, files):
        split = read_split(files[0], [], Options(development=0.3))
        train, development = ({key_of(pool.query) for pool in pools} for pools in (split.train, split.development))
        assert train
        assert len(development) == len(split.development) == 64
        assert not train & development
        assert all(hash_fraction(key) >= 0.3 for key in train)
        assert len(split.train) + len(split.development) + split.unused + split.excluded == 602

    def test_the_split_is_the_querys_alone(self, files):
        """Another file or another order moves no query from one side to the other."""
        both = {
            key_of(pool.query) for pool in read_split(files[0], [], Options(development=0.3, development_pools=1000)).development
        }
        one = {
            key_of(pool.query)
            for pool in read_split(files[0][::-1], [], Options(development=0.3, development_pools=1000)).development
        }
        assert both == one
        assert 60 < len(both) < 120

    def test_excluded_queries_are_nowhere(self, files):
        split = read_split(files[0], [files[1]], Options(development=0.3))
        queries = {key_of(pool.query) for pool in (*split.train, *split.development)}
        assert queries
        assert not queries & {f"what is number {number}" for number in range(0, 300, 3)}
        assert split.excluded == 200
        assert [(file.name, file.rows) for file in split.exclusions] == [("third.jsonl", 100)]

    def test_draws_visit_every_pool_once_an_epoch(self, files):
        train = read_split(files[0], [], Options(development=0.3)).train
        draws = Draws(train, 2, 7)
        for epoch in range(2):
            visits = [draws.at(epoch * len(train) + place) for place in range(len(train))]
            assert sorted(query for query, _ in visits) == sorted(pool.query for pool in train)
            assert {len(documents) for _, documents in visits} == {2}
        assert [draws.at(place)[0] for place in range(20)] != [draws.at(len(train) + place)[0] for place in range(20)]

    def test_a_draw_depends_on_its_position_alone(self, files):
        train = read_split(files[0], [], Options(development=0.3)).train
        first = Draws(train, 2, 7)
        expected = [first.at(position) for position in range(1500)]
        second = Draws(train, 2, 7)
        assert [second.at(position) for position in range(1499, -1, -1)] == expected[::-1]
        assert [Draws(train, 2, 8).at(position) for position in range(20)] != expected[:20]

    @pytest.mark.parametrize("query", ["", "???", " \t", "\U0001f30a", "\ud800"])
    def test_any_query_has_a_key(self, query):
        assert 0 <= hash_fraction(key_of(query)) < 1

    def test_queries_that_differ_in_a_vowel_sign_are_different(self):
        assert key_of("दिन कैसा था?") == "दिन कैसा था" != key_of("दान कैसा था?")

    def test_nothing_left_to_train_on(self, files, tmp_path):
        with pytest.raises(InputError, match="no pools to train on"):
            read_split([files[0][0]], [files[0][0]], Options())

    def test_nothing_to_measure(self, files, monkeypatch):
        monkeypatch.setattr(split_of, "hash_fraction", lambda key: 0.9)
        with pytest.raises(InputError, match=r"none of the 600 pools falls in the development share of 0\.02; raise --dev"):
            read_split(files[0], [], Options())

    @pytest.mark.parametrize("name", ["-", ".", "missing.jsonl"])
    def test_data_that_cannot_be_read_again(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match=r"is not a file|cannot be read"):
            read_split([Path(name)], [], Options())

    def test_a_bad_line_is_named(self, tmp_path):
        path = tmp_path / "bad.jsonl"
        path.write_text('{"query": "a", "documents": ["b", "c"]}\n{"query": 1}\n')
        with pytest.raises(InputError, match=r"bad\.jsonl, line 2: 'query' is a number"):
            read_split([path], [], Options())
        with pytest.raises(InputError, match=r"bad\.jsonl, line 2: no query"):
            read_split([path], [path], Options())


class TestOptions:
    @pytest.mark.parametrize(
        "options",
        [
            {"layers": 0}, {"pairs": 0}, {"batch": -1}, {"local": 1.1}, {"decay": -0.1}, {"lr": 0.0}, {"lr": float("nan")},
            {"development": 0.0}, {"development": 1.0}, {"keep": (3, 1)}, {"keep": (-1,)}, {"keep": (1, 1)}, {"evaluate": 0},
            {"local": float("nan")},
        ],
    )  # fmt: skip
    def test_a_value_out_of_range(self, options):
        with pytest.raises(InputError, match=f"{next(iter(options))} is .*; expected"):
            Options(**options)

    def test_layers_are_evenly_spaced_and_end_with_the_last(self):
        assert evenly_spaced(6, 12) == (1, 3, 5, 7, 9, 11)
        assert evenly_spaced(3, 12) == (3, 7, 11)
        assert evenly_spaced(4, 6) == (0, 2, 3, 5)
        for teacher in range(2, 30):
            for layers in range(1, teacher):
                found = evenly_spaced(layers, teacher)
                assert len(set(found)) == layers
                assert found[-1] == teacher - 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"layers": 12}, "layers is 12, but the teacher has 12; expected 1 to 11"),
            ({"keep": (1, 5)}, "keep ends with layer 5; expected the teacher's last, 11"),
            ({"keep": (1, 12)}, "keep ends with layer 12"),
            ({"keep": tuple(range(12))}, "keep names all 12 layers"),
        ],
    )
    def test_layers_the_teacher_lacks(self, options, message):
        with pytest.raises(InputError, match=message):
            Options(**options).retained_layers(12)

    def test_the_rate_rises_stays_and_falls(self):
        options = Options(pairs=100_000, lr=1.0, decay=0.2, batch=32)
        assert options.rate(0) == pytest.approx(32 / WARMUP)
        assert options.rate(WARMUP) == options.rate(79_999) == 1.0
        assert options.rate(90_000) == pytest.approx(0.5)
        assert options.rate(100_000) == 0.0
        assert Options(pairs=100_000, lr=1.0, decay=0.0).rate(99_999) == 1.0
        assert [Options(pairs=100, local=0.3).is_local(pairs) for pairs in (0, 29, 30, 99)] == [True, True, False, False]


def test_kept_by_hand():
    reference = np.arange(20.0)
    assert first_look_recall(reference, reference) == 1.0
    assert first_look_recall(reference, -reference) == 0.5  # the best 15 of the reverse hold 14 to 0, the top 10 are 19 to 10
    assert first_look_recall(reference, reference, top=2, size=1) == 0.5


def test_labels_of_a_pool():
    assert labels_of(CandidatePool("q", ["a", "b", "c"], fields=[{"label": 2}, {"label": None}, {}])) == [2, 0, 0]
    assert labels_of(CandidatePool("q", ["a"], fields=[{"label": 0}])) is None
    assert labels_of(CandidatePool("q", ["a"])) is None
    with pytest.raises(InputError, match=r"the pool of the query 'q': the label is 10*; expected a relevance grade"):
        labels_of(CandidatePool("q", ["a"], fields=[{"label": 10**400}]))


def test_the_recipe_says_what_made_it_and_makes_it_again(source, pools, tmp_path):
    exclude = tmp_path / "exclude.jsonl"
    exclude.write_text(json.dumps({"query": next(iter(read_pools(pools))).query}) + "\n")
    out = tmp_path / "student"
    recipe = distilled(source, out, pools, exclude=[exclude])
    assert decode_recipe((out / "recipe.json").read_bytes()) == recipe
    assert recipe.is_finished
    assert (recipe.teacher.sha256["model.safetensors"], recipe.start) == (sha256_of(Path(source) / "model.safetensors"), None)
    assert [(file.name, file.sha256, file.rows) for file in recipe.data] == [("pools.jsonl", sha256_of(pools), 50)]
    assert [(file.name, file.rows) for file in recipe.exclude] == [("exclude.jsonl", 1)]
    assert recipe.excluded_pools == 1
    assert recipe.train_pools + recipe.development_pools + recipe.unused_pools == 49
    assert [figures.pairs for figures in recipe.curve] == [0, 320, 640, 960]
    assert [figures.train_logits is None for figures in recipe.curve] == [True, True, False, False]
    assert all(figures.teacher_ndcg == recipe.curve[0].teacher_ndcg for figures in recipe.curve)
    assert {"torch", "transformers", "resift"} <= recipe.runs[0].versions.keys()
    assert (recipe.runs[0].first_pair, recipe.runs[0].last_pair) == (0, 960)
    assert (recipe.pairs, recipe.steps, recipe.position) == (960, 30, 120)

    words = shlex.split(json.loads((out / "recipe.json").read_bytes())["command"])[1:]
    paths = {"OUT": tmp_path / "again", "pools.jsonl": pools, "exclude.jsonl": exclude, recipe.teacher.id: source}
    asked = parser().parse_args([str(paths.get(word, word)) for word in words] + ["--threads", "1", "--device", "cpu"])
    assert asked.run(asked) == 0
    assert weights(tmp_path / "again") == weights(out)
    again = decode_recipe((tmp_path / "again" / "recipe.json").read_bytes())
    assert again.curve == recipe.curve
    assert again.differences(recipe) == []


def test_another_seed_is_another_student(source, pools, tmp_path):
    distilled(source, tmp_path / "first", pools, pairs=64)
    distilled(source, tmp_path / "second", pools, pairs=64, seed=1)
    assert weights(tmp_path / "first") != weights(tmp_path / "second")


def test_development_queries_are_never_encoded_while_training(source, pools, tmp_path, monkeypatch):
    queries = []
    draw = Draws.at
    monkeypatch.setattr(Draws, "at", lambda self, position: queries.append(draw(self, position)[0]) or draw(self, position))
    distilled(source, tmp_path / "student", pools, exclude=[])
    assert len(queries) == 120
    assert {hash_fraction(key_of(query)) < 0.2 for query in queries} == {False}


def test_a_query_longer_than_the_limit(source, tmp_path, pools):
    path = tmp_path / "long.jsonl"
    rows = [{"query": f"{number} " + "tide " * 400, "documents": ["a", "b " * 300, ""]} for number in range(30)]
    path.write_text(pools.read_text() + "".join(json.dumps(row) + "\n" for row in rows))
    assert distilled(source, tmp_path / "student", path, pairs=320).is_finished


def test_a_student_goes_on_from_another(source, pools, tmp_path):
    first = distilled(source, tmp_path / "first", pools)
    second = distilled(source, tmp_path / "second", pools, start=str(tmp_path / "first"), local=0.0)
    assert second.curve[0].logit_error == pytest.approx(first.curve[-1].logit_error)
    assert second.curve[-1].train_hidden < first.curve[-1].train_hidden
    assert second.start.sha256["model.safetensors"] == sha256_of(tmp_path / "first" / "model.safetensors")
    assert second.start.recipe["options"]["pairs"] == 960
    assert decode_recipe((tmp_path / "second" / "recipe.json").read_bytes()) == second


def test_a_start_must_be_a_student_of_the_teacher(source, checkpoint_of, pools, tmp_path):
    with pytest.raises(ExportError, match="of 2 layers of 64, whose weights do not fit a student of 1 layers of 64"):
        distilled(source, tmp_path / "student", pools, start=source)
    distilled(checkpoint_of("distilbert"), tmp_path / "other", pools, pairs=32)
    with pytest.raises(ExportError, match="is a distilbert of 1 layers"):
        distilled(source, tmp_path / "student", pools, start=str(tmp_path / "other"))
    twin = tiny.save_with_other_embeddings(tmp_path / "twin", source)
    distilled(twin, tmp_path / "student of twin", pools, pairs=32)
    with pytest.raises(ExportError, match=r"has another .*embeddings.* than the teacher"):
        distilled(source, tmp_path / "student", pools, start=str(tmp_path / "student of twin"))


def test_a_teacher_that_tells_nothing_apart(source, pools, tmp_path):
    loaded = checkpoint.load(source)
    torch.nn.init.zeros_(loaded.model.classifier.weight)
    loaded.model.save_pretrained(tmp_path / "flat")
    loaded.tokenizer.save_pretrained(tmp_path / "flat")
    with pytest.raises(ExportError, match="gives all development pairs the same outputs"):
        distilled(tmp_path / "flat", tmp_path / "student", pools)


def test_a_rate_that_diverges_is_one_clear_error(source, pools, tmp_path):
    with pytest.raises(ExportError, match=r"the loss after .* pairs is not finite.*try a lower --lr"):
        distilled(source, tmp_path / "student", pools, lr=1e30)


def test_more_tokens_than_the_teacher_reads(source, pools, tmp_path):
    with pytest.raises(InputError, match=f"max_length is 500, but the teacher reads at most {tiny.MAX_LENGTH} tokens"):
        distilled(source, tmp_path / "student", pools, max_length=500)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu():
    with pytest.raises(InputError, match="device is cuda, but torch finds none"):
        device_of("cuda")
    assert device_of("auto").type == "cpu"


def test_bfloat16_learns_too(source, pools, tmp_path):
    recipe = distilled(source, tmp_path / "student", pools, dtype="bfloat16")
    assert learns(recipe)
    assert checkpoint.load(str(tmp_path / "student")).model.dtype == torch.float32


@pytest.mark.parametrize(
    ("here", "dtype"),
    [
        ({"avx2", "avx512f", "avx512_vnni"}, "float32"),
        ({"avx2", "avx512f", "avx512_bf16"}, "bfloat16"),
        ({"avx2", "avx512f", "amx_int8"}, "bfloat16"),
        (set(), "float32"),
    ],
)
def test_bfloat16_is_chosen_where_the_processor_multiplies_it_fast(monkeypatch, here, dtype):
    monkeypatch.setattr("resift_export.distill.device.instruction_sets", lambda: frozenset(here))
    assert fast_dtype(torch.device("cpu")) == dtype

"""Split students: first layers in which query and document are apart, later ones in which only the query reads on."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

from resift.encoding.tokenizer import PairTokenizer
from resift.errors import ExportError, InputError
from resift_export.checkpoint import load as checkpoint
from resift_export.checkpoint.layers import LAYERS, LayerSize, compact, layers_of, sizes_of
from resift_export.checkpoint.split import KEY, SplitLayout, embed, positions_of, run_first_layers, split_of
from resift_export.distill.batches import PaddedBatch, padded_batches
from resift_export.distill.data import Draws, read_split
from resift_export.distill.development import Development
from resift_export.distill.distillation import distill
from resift_export.distill.initial import blank_student
from resift_export.distill.narrow import Prices, _fit, _read_by, choose_sizes
from resift_export.distill.options import DOCUMENT_POSITION, Options
from resift_export.distill.recipe import DistillRecipe, decode_recipe
from resift_export.distill.split_train import SplitTrainer
from resift_export.distill.student import embeddings_of, run, run_layer, run_split
from resift_export.train.encoder import load_start
from tests.support import tiny

CPU = torch.device("cpu")
LAYOUT = SplitLayout(1, DOCUMENT_POSITION)
OPTIONS = {"split": 1, "local": 0.0, "pairs": 480, "evaluate": 160, "development": 0.2, "max_length": 64, "lr": 2e-3}
QUERY = "how do tides work"
DOCUMENTS = ["", "short", *tiny.texts()[1:24:2]]


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    path = tmp_path_factory.mktemp("pools") / "pools.jsonl"
    texts = tiny.texts()
    rows = [
        {
            "query": texts[2 * number][:28],
            "documents": [texts[(2 * number + 14 * place + 1) % len(texts)] for place in range(12)],
        }
        for number in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def distilled(source, out, pools, **more):
    started = {name: more.pop(name) for name in ("start",) if name in more}
    return distill(str(source), out, [pools], Options(**(OPTIONS | more)), threads=1, device="cpu", **started)


def batches_of(teacher, documents=DOCUMENTS, *, size=16):
    tokenizer = PairTokenizer(teacher.tokenizer_json(), 64)
    return padded_batches(teacher, [tokenizer.encode(QUERY, documents)], CPU, size=size)


def plainly(model, ids, segment_ids, query_tokens, layout):
    """The query's states after each later layer, and the logits, of one pair: by transformers' own modules, with a mask that says
    which token reads which, and document states that are put back after each later layer."""
    tables, width = model.base_model.embeddings, len(ids)
    slot = torch.full((layout.document_position - query_tokens,), 7)  # tokens between the two texts, to shift the document
    stretched = torch.cat([ids[:query_tokens], slot, ids[query_tokens:]])[None]
    segments = torch.cat([segment_ids[:query_tokens], torch.zeros_like(slot), segment_ids[query_tokens:]])[None]
    states = tables(stretched, **({"token_type_ids": segments} if hasattr(tables, "token_type_embeddings") else {}))
    states = torch.cat([states[:, :query_tokens], states[:, layout.document_position :]], dim=1)
    if hasattr(model.base_model, "embeddings_project"):
        states = model.base_model.embeddings_project(states)
    mask = torch.zeros(1, 1, width, width)
    mask[..., :query_tokens, query_tokens:] = mask[..., query_tokens:, :query_tokens] = -1e9
    later = []
    for number, layer in enumerate(layers_of(model)):
        is_first = number < layout.layers
        output = layer(states, mask if is_first else None)
        output = output[0] if isinstance(output, tuple) else output
        states = output if is_first else torch.cat([output[:, :query_tokens], states[:, query_tokens:]], dim=1)
        if not is_first:
            later.append(states[0, :query_tokens])
    # The model's own head, which then reads these states.
    hook = layers_of(model)[-1].register_forward_hook(
        lambda _, __, output: (states, *output[1:]) if isinstance(output, tuple) else states
    )
    inputs = {"input_ids": ids[None], "token_type_ids": segment_ids[None]}
    logits = model(**(inputs if hasattr(tables, "token_type_embeddings") else {"input_ids": ids[None]})).logits
    hook.remove()
    return later, logits[0]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", LAYERS)
def test_a_split_reads_as_a_pair_with_a_mask(family, attention, checkpoint_of):
    teacher = checkpoint.load(str(checkpoint_of(family)))
    teacher.model.set_attn_implementation(attention)
    encodings = PairTokenizer(teacher.tokenizer_json(), 64).encode(QUERY, DOCUMENTS)
    padded = 0
    with torch.no_grad():
        for batch in padded_batches(teacher, [encodings], CPU):
            padded += batch.mask is not None
            found = run_split(teacher.model, LAYOUT, batch)
            for index, row in enumerate(batch.rows):
                ids, segment_ids = (torch.from_numpy(column).long() for column in encodings.row(row))
                states, logits = plainly(teacher.model, ids, segment_ids, int(encodings.query_tokens[row]), LAYOUT)
                assert len(states) == len(found.hidden_states) == 1
                torch.testing.assert_close(found.hidden_states[0][index], states[0], rtol=0, atol=1e-4)
                torch.testing.assert_close(found.logits[index], logits, rtol=0, atol=1e-4)
            assert (found.logits - run(teacher.model, batch).logits).abs().max() > 0.1, "a split of no effect"
    assert padded


@pytest.mark.parametrize("family", LAYERS)
def test_the_layers_that_are_fitted_read_as_the_student_does(family, checkpoint_of):
    teacher = checkpoint.load(str(checkpoint_of(family)))
    setattr(teacher.model.config, KEY, {"layers": 1, "document_position": DOCUMENT_POSITION})
    for batch in batches_of(teacher):
        with torch.no_grad():
            expected = run_split(teacher.model, LAYOUT, batch)
            states = embeddings_of(teacher.model, batch)
            for number, layer in enumerate(layers_of(teacher.model)):
                [view] = _read_by(teacher.model, number, [batch])
                states = run_layer(layer, states, view)
        torch.testing.assert_close(states[:, : batch.query_tokens], expected.hidden_states[-1], rtol=0, atol=1e-4)
        assert view.counts.sum() == len(batch.rows) * batch.query_tokens


def test_positions_are_those_of_the_family(checkpoint_of):
    assert {family: positions_of(checkpoint.load(str(checkpoint_of(family))).model) for family in LAYERS} == dict.fromkeys(
        LAYERS, tiny.MAX_LENGTH
    )


def test_a_document_is_read_to_the_last_position(checkpoint_of):
    """The longest document of a split student ends at the last position of its teacher."""
    for family in LAYERS:
        model = checkpoint.load(str(checkpoint_of(family))).model
        ids = torch.full((1, tiny.MAX_LENGTH - DOCUMENT_POSITION), 7)
        assert torch.isfinite(run_first_layers(model, LAYOUT, embed(model, ids, first=DOCUMENT_POSITION))).all()
        with pytest.raises(IndexError):
            embed(model, ids, first=DOCUMENT_POSITION + 1)


@pytest.mark.parametrize("family", LAYERS)
def test_no_position_is_read_that_the_model_lacks(family, checkpoint_of):
    """At the longest pairs that a split student may have, beside the same pairs without padding."""
    teacher = checkpoint.load(str(checkpoint_of(family)))
    encodings = PairTokenizer(teacher.tokenizer_json(), tiny.MAX_LENGTH - DOCUMENT_POSITION).encode(
        "tides", [" the" * count for count in range(100, tiny.MAX_LENGTH, 3)]
    )
    widths = set()
    for batch in padded_batches(teacher, [encodings], CPU, size=3):
        widths.add(batch.inputs["input_ids"].shape[1])
        with torch.no_grad():
            found = run_split(teacher.model, LAYOUT, batch).logits
        for index, row in enumerate(batch.rows):
            inputs = {name: values[index : index + 1, : encodings.lengths[row]] for name, values in batch.inputs.items()}
            alone = replace(batch, rows=[row], inputs=inputs, mask=None)
            with torch.no_grad():
                torch.testing.assert_close(run_split(teacher.model, LAYOUT, alone).logits[0], found[index], rtol=0, atol=1e-4)
    assert {128, 144, 160} <= widths <= {112, 128, 144, 160}


@pytest.mark.parametrize("family", tiny.quickly("bert", of=tuple(LAYERS)))
def test_a_split_student_of_every_family_learns_and_is_saved(family, checkpoint_of, pools, tmp_path):
    teacher = checkpoint.load(str(checkpoint_of(family)))
    recipe = distilled(checkpoint_of(family), tmp_path / "student", pools)
    first, *_, last = (figures.train_hidden for figures in recipe.curve[1:])
    assert last < 0.8 * first
    assert recipe.keep == (0, 1)
    assert "--split 1 --pairs 480 --batch 32 --max 8 --local 0.0" in recipe.command()
    student = checkpoint.load(str(tmp_path / "student"))
    assert split_of(student.model, "student") == LAYOUT
    assert (student.activation, student.max_length) == (teacher.activation, teacher.max_length)
    embeddings = student.model.base_model.embeddings.state_dict()
    assert all(torch.equal(embeddings[name], value) for name, value in teacher.model.base_model.embeddings.state_dict().items())
    # What was saved is what was measured.
    tokenizer = PairTokenizer(teacher.tokenizer_json(), 64)
    split = read_split([pools], [], recipe.options).without_long_queries(tokenizer, DOCUMENT_POSITION)
    development = Development(
        teacher, split.development, [tokenizer.encode(pool.query, pool.documents) for pool in split.development]
    )
    reference = development.reference(teacher.model, recipe.keep, CPU, lambda: True)
    figures = development.figures(partial(run_split, student.model, LAYOUT), recipe, reference, CPU, lambda: True)
    assert figures.logit_error == pytest.approx(recipe.curve[-1].logit_error, rel=1e-4)
    assert figures.logit_error != pytest.approx(recipe.curve[0].logit_error, rel=1e-2)


def trainer_of(teacher, pools, **more):
    """A trainer whose student is the teacher itself, split."""
    options = Options(**(OPTIONS | {"candidates": 12, "batch": 24} | more))
    split = read_split([pools], [], options)
    weights = {"teacher": None, "start": None, "data": [], "exclude": []}
    counts = dict.fromkeys(("train_pools", "development_pools", "excluded_pools", "unused_pools"), 0)
    recipe = DistillRecipe(**weights, **counts, options=options, keep=(0, 1), hidden_variances=(2.0, 4.0), logit_variance=8.0)
    tokenizer = PairTokenizer(teacher.tokenizer_json(), 64)
    student = blank_student(teacher, (0, 1), options)
    return SplitTrainer(teacher, student, recipe, Draws(split.train, 12, 0), tokenizer, CPU)


def test_losses_are_those_of_pairs_alone(checkpoint_of, pools):
    """Neither padding nor the batches in which a query's candidates are read change a loss."""
    teacher = checkpoint.load(str(checkpoint_of("bert")))
    trainer = trainer_of(teacher, pools)
    encodings = trainer.tokenizer.encode(QUERY, DOCUMENTS)
    query_tokens = int(encodings.query_tokens[0])
    hidden = first_token = 0.0
    errors = []
    for number in range(len(encodings)):
        ids, segments = (torch.from_numpy(column).long()[None] for column in encodings.row(number))
        pair = PaddedBatch([0], {"input_ids": ids, "token_type_ids": segments}, None, ids.shape[1], query_tokens)
        with torch.no_grad():
            student, goal = run_split(trainer.student, LAYOUT, pair), run(teacher.model, pair)
        distance = (student.hidden_states[-1] - goal.hidden_states[-1][:, :query_tokens]).square().mean(dim=2) / 4.0
        hidden += float(distance.sum())
        first_token += float(distance[0, 0])
        errors.append(float(student.logits - goal.logits))
    errors = torch.tensor(errors)
    expected = [hidden, float(errors.square().sum()) / 8, float((errors - errors.mean()).square().sum()) / 8, first_token]
    [losses] = trainer._losses([encodings])
    assert len(encodings) > 8
    assert [float(loss.detach()) for loss in losses] == pytest.approx(expected, rel=1e-3)
    assert trainer._trained_tokens([encodings]) == len(encodings) * query_tokens


def test_a_gradient_reaches_every_layer_and_no_embedding(checkpoint_of, pools):
    trainer = trainer_of(checkpoint.load(str(checkpoint_of("bert"))), pools)
    [losses] = trainer._losses([trainer.tokenizer.encode(QUERY, DOCUMENTS)])
    torch.stack(losses).sum().backward()
    without = {name for name, weights in trainer.student.named_parameters() if weights.grad is None}
    assert without == {name for name, _ in trainer.student.named_parameters() if "embeddings" in name}


def test_long_queries_are_left_out_and_counted(source, pools, tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "long.jsonl"
    rows = [{"query": f"{number} " + "tide " * 60, "documents": ["a", "b", "c"]} for number in range(30)]
    path.write_text(pools.read_text() + "".join(json.dumps(row) + "\n" for row in rows))
    recipe = distilled(source, tmp_path / "student", path, pairs=32)
    assert recipe.long_pools == 30
    assert recipe.train_pools + recipe.development_pools == 40
    assert "30 with a query of more than 32 tokens" in caplog.text
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"all .* queries to train on have more than the 32 tokens of a split"):
        distilled(source, tmp_path / "other", path, pairs=32)


@pytest.mark.parametrize(("words", "is_long"), [(30, False), (31, True)])
def test_a_query_fits_its_slot_or_does_not(words, is_long, source, pools):
    """[CLS], the query and [SEP] are 32 tokens."""
    tokenizer = PairTokenizer(checkpoint.load(source).tokenizer_json(), 64)
    query = " ".join(["the"] * words)
    assert int(tokenizer.encode(query, [""]).query_tokens[0]) == words + 2
    split = read_split([pools], [], Options(**OPTIONS))
    pool = replace(split.train[0], query=query)
    found = replace(split, train=[*split.train, pool]).without_long_queries(tokenizer, DOCUMENT_POSITION)
    assert (found.long, pool in found.train) == (int(is_long), not is_long)


@pytest.fixture
def few_fit_pairs(monkeypatch):
    monkeypatch.setattr("resift_export.distill.initial.FIT_PAIRS", 100)


def test_it_goes_on_from_a_split_student_and_can_be_narrowed(source, pools, tmp_path, few_fit_pairs):
    first = distilled(source, tmp_path / "first", pools, pairs=160)
    second = distilled(source, tmp_path / "second", pools, pairs=160, start=str(tmp_path / "first"))
    assert second.curve[0].logit_error == pytest.approx(first.curve[-1].logit_error)
    narrow = distilled(source, tmp_path / "narrow", pools, pairs=0, start=str(tmp_path / "first"), width=0.6)
    assert "--from first --width 0.6 --split 1" in narrow.command()
    student = checkpoint.load(str(tmp_path / "narrow"))
    compact(student.model)
    sizes = sizes_of(student.model)
    whole = 2 * 4 * 64 * 64 + 2 * 2 * 64 * tiny.SIZE["intermediate_size"]
    assert 0.3 * whole < sum(4 * 64 * 16 * size.heads + 2 * 64 * size.units for size in sizes) < 0.7 * whole
    further = distilled(source, tmp_path / "further", pools, pairs=32, start=str(tmp_path / "narrow"))
    assert further.curve[0].logit_error == pytest.approx(narrow.curve[-1].logit_error)
    with pytest.raises(InputError, match="first is split after layer 1; expected split 1 to go on from it"):
        distilled(source, tmp_path / "other", pools, split=None, layers=2, start=str(tmp_path / "first"))


def test_fitted_as_it_reads_it_is_nearer(source):
    """A split student that is fitted as if it were in one piece is farther from the split model that it comes from."""
    teacher = checkpoint.load(source)
    batches, fresh = batches_of(teacher, tiny.texts()[1:120:2]), batches_of(teacher, tiny.texts()[121:180:2])
    setattr(teacher.model.config, KEY, {"layers": 1, "document_position": DOCUMENT_POSITION})
    errors = []
    for is_split in (True, False):
        student = blank_student(teacher, (0, 1), Options(**OPTIONS))
        fitted_to = teacher.model
        if not is_split:
            fitted_to = blank_student(teacher, (0, 1), Options(**OPTIONS))
            setattr(fitted_to.config, KEY, None)
        with torch.no_grad():
            assert _fit(student, fitted_to, (0, 1), [LayerSize(4, 32)] * 2, batches, lambda: True)
            pairs = [
                [run_split(model, LAYOUT, batch).hidden_states[-1][:, 0] for batch in fresh] for model in (student, teacher.model)
            ]
        found, goal = map(torch.cat, pairs)
        errors.append(float((found - goal).square().mean()))
    assert errors[0] < 0.8 * errors[1]


def test_all_weights_of_a_split_student_count():
    """The last layer's inner units, too, which are otherwise free; and its heads as those of other layers."""
    prices = [Prices([3.0] * 3, [2.0] * 7), Prices([1.0] * 3, [0.1] * 7)]
    assert choose_sizes(prices, 1, 0.7, is_split=True) == [(4, 8), (2, 1)]
    assert choose_sizes(prices, 1, 0.7)[1].units == 8


def test_with_a_width_alone_it_starts_as_the_narrowed_teacher(source, pools, tmp_path, few_fit_pairs):
    """`--width` narrows the teacher as it does without `--split`, but counts weights."""
    recipe = distilled(source, tmp_path / "student", pools, width=0.6, pairs=0)
    assert split_of(checkpoint.load(str(tmp_path / "student")).model, "student") == LAYOUT
    assert recipe.is_finished


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": 0}, "split is 0; expected 1 or more"),
        ({"local": 0.2}, "local is 0.2; expected 0 with a split"),
        ({"max_length": 32}, "max_length is 32; expected more than the 32 of a split's query"),
    ],
)
def test_options_that_a_split_does_not_allow(options, message):
    with pytest.raises(InputError, match=message):
        Options(**(OPTIONS | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"split": 2},
            "split is 2, but the student has 2 layers, and in one at least .* expected 1 to 1",
        ),
        ({"split": 1, "layers": 1}, "split is 1, but the student has 1 layers"),
        ({"max_length": 161}, "max_length is 161, but the teacher has 192 positions.*begins at 32; expected at most 160"),
    ],
)
def test_splits_that_the_teacher_does_not_allow(options, message, source, pools, tmp_path):
    with pytest.raises(InputError, match=message):
        distilled(source, tmp_path / "student", pools, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def split_folder(source, tmp_path_factory):
    """A checkpoint that says that it is split."""
    folder = tmp_path_factory.mktemp("split") / "student"
    teacher = checkpoint.load(source)
    blank_student(teacher, (0, 1), Options(**OPTIONS)).save_pretrained(folder)
    teacher.tokenizer.save_pretrained(folder)
    return folder


def test_a_split_student_is_no_model_of_its_own(split_folder, pools, tmp_path):
    expected = "student is split after layer 1, so that it ranks only as the first look of its teacher; .*--first-look"
    with pytest.raises(ExportError, match=expected):
        distilled(split_folder, tmp_path / "out", pools)
    with pytest.raises(ExportError, match=expected):
        load_start(str(split_folder), None, 64)


@pytest.mark.parametrize(
    "found",
    [
        {"layers": 2, "document_position": 32},
        {"layers": 0, "document_position": 32},
        {"layers": 1, "document_position": 192},
        {"layers": "1", "document_position": 32},
        {"layers": 1},
        {"layers": 1, "document_position": 32, "more": 1},
        [1, 32],
        "yes",
    ],
)
def test_a_split_that_cannot_be_is_refused(found, split_folder):
    model = checkpoint.load(str(split_folder)).model
    setattr(model.config, KEY, found)
    with pytest.raises(ExportError, match=r"config\.json of it has resift_split .*expected layers from 1 to 1 and a doc"):
        split_of(model, "it")


def test_other_families_have_no_split(checkpoint_of):
    model = checkpoint.load(str(checkpoint_of("albert"))).model
    assert split_of(model, "it") is None
    setattr(model.config, KEY, {"layers": 1, "document_position": 32})
    with pytest.raises(ExportError, match=r"config\.json of it has resift_split"):
        split_of(model, "it")


def test_the_command(source, pools, tmp_path, capsys):
    from resift.cli.main import main

    command = ["distill", source, str(tmp_path / "student"), "--data", str(pools), "--split", "1", "--pairs", "32", "--dev", "0.2"]
    assert main([*command, "--max-length", "64", "--threads", "1", "--device", "cpu"]) == 0
    assert "32 of 32 pairs, finished" in capsys.readouterr().out
    recipe = decode_recipe((tmp_path / "student" / "recipe.json").read_bytes())
    assert (recipe.options.split, recipe.options.local) == (1, 0.0)
    assert json.loads((tmp_path / "student" / "config.json").read_bytes())[KEY] == {"layers": 1, "document_position": 32}

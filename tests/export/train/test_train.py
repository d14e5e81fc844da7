"""Trainings of a tiny checkpoint, and the traps of its library: each is a test here, or a refusal."""

from __future__ import annotations

import json
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason="training needs sentence-transformers")
pytest.importorskip("accelerate", reason="training needs accelerate")
pytest.importorskip("datasets", reason="training needs datasets")

import torch
import transformers
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses

from resift.cli.main import main
from resift.errors import ExportError, InputError, OutputError
from resift.evaluate.results import Difference
from resift.settings import Settings
from resift_export.checkpoint import load as checkpoints
from resift_export.train import artifact as delivery
from resift_export.train import judge, training
from resift_export.train.course import last_state
from resift_export.train.development import DevelopmentEvaluator
from resift_export.train.encoder import encoder_of, load_start, logits_of
from resift_export.train.losses import choose
from resift_export.train.options import TrainOptions
from resift_export.train.pairs import read_data
from resift_export.train.recipe import Comparison, decode_recipe
from resift_export.train.split import split_queries
from resift_export.train.trainer import GENERAL, OWN, Material, trainer_of
from tests.support import modular, tiny, trainings

CPU = torch.device("cpu")
PAIR = ("how do tides work", "The moon pulls the sea.")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return trainings.write(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", trainings.rows(60))


def train(source, out, pairs, *, options=None, **more):
    options = TrainOptions(**(trainings.OPTIONS | (options or {})))
    return training.train(str(source), out, [pairs], options, threads=1, device="cpu", **more)


@pytest.fixture(scope="module")
def unbroken(source, pairs, tmp_path_factory):
    """The folder of a checkpoint whose training nothing interrupted."""
    out = tmp_path_factory.mktemp("trained") / "trained"
    assert train(source, out, pairs, force=True).is_written
    return out


def test_it_loads_wherever_its_start_does(unbroken, source):
    """In transformers, sentence-transformers and the toolchain, with the start's tokenizer, length and activation."""
    assert {path.name for path in unbroken.parent.iterdir()} == {"trained"}
    start, found = checkpoints.load(source), checkpoints.load(str(unbroken))
    assert (found.activation, found.max_length, found.labels) == (start.activation, start.max_length, 1)
    assert found.tokenizer_json() == start.tokenizer_json()
    logit = found.reference(PAIR[0], [PAIR[1]])[0]
    assert logit != start.reference(PAIR[0], [PAIR[1]])[0]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(unbroken)
    tokenizer = transformers.AutoTokenizer.from_pretrained(unbroken)
    assert tokenizer.model_max_length == tiny.MAX_LENGTH
    with torch.inference_mode():
        assert model(**tokenizer(*PAIR, return_tensors="pt")).logits.item() == pytest.approx(logit, abs=1e-5)
    assert CrossEncoder(str(unbroken), device="cpu").predict([PAIR], activation_fn=torch.nn.Identity())[0] == pytest.approx(
        logit, abs=1e-5
    )


def test_the_recipe_says_what_was_done(unbroken, pairs):
    recipe = decode_recipe((unbroken / "recipe.json").read_bytes())
    assert (recipe.train_queries, recipe.development_queries, recipe.held_out_queries) == (42, 6, 12)
    assert recipe.steps == 8  # of two parts each: 11 of own pairs, and 4 of general ones
    assert [figure.step for figure in recipe.curve] == [0, 3, 6, 8]
    best = max(recipe.curve[1:], key=lambda figure: figure.ndcg)
    assert recipe.best_step == best.step
    assert (recipe.held_out.pools, recipe.guards[0].pools) == (12, 37)
    assert recipe.held_out.differences["nDCG@10"].value == pytest.approx(
        recipe.held_out.after["nDCG@10"] - recipe.held_out.before["nDCG@10"]
    )
    assert f"--data {pairs.name}" in json.loads((unbroken / "recipe.json").read_bytes())["command"]


def test_it_learns(unbroken):
    """The answers of these queries repeat them, which the checkpoint, trained on something else, does not know."""
    recipe = decode_recipe((unbroken / "recipe.json").read_bytes())
    assert recipe.curve[-1].loss < recipe.curve[1].loss


def test_finished_it_does_nothing_more(unbroken, source, pairs, tmp_path, monkeypatch):
    before = {path.name: path.stat().st_mtime_ns for path in unbroken.iterdir()}
    monkeypatch.setattr(training, "trainer_of", lambda *_: pytest.fail("trained on"))
    assert train(source, unbroken, pairs).is_written
    assert {path.name: path.stat().st_mtime_ns for path in unbroken.iterdir()} == before
    guard = tmp_path / "later.jsonl"
    guard.write_text('{"query": "tides", "candidates": [{"text": "The moon.", "label": 1}, {"text": "Bread.", "label": 0}]}\n')
    with pytest.raises(OutputError, match="was finished without the guard later; choose another OUT"):
        train(source, unbroken, pairs, guards=[guard])
    with pytest.raises(OutputError, match=r"was begun with lr 0\.001 instead of 0\.1; use the same choices, or choose another OUT"):
        train(source, unbroken, pairs, options={"lr": 0.1})
    assert {path.name for path in unbroken.parent.iterdir()} == {"trained"}


def test_a_dry_run_writes_nothing(source, pairs, tmp_path):
    found = train(source, tmp_path / "out", pairs, dry_run=True)
    assert found.seconds > 0
    assert not found.is_written
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def encoder(source):
    return encoder_of(load_start(source, None, 48), 48, CPU)


@pytest.mark.parametrize(
    ("name", "kind"), [("bce", losses.BinaryCrossEntropyLoss), ("infonce", losses.ListNetLoss), ("marginmse", losses.MarginMSELoss)]
)
def test_losses_read_logits(name, kind, encoder, tmp_path):
    """No sigmoid before a loss, none that caches gradients, no gradient checkpointing, and the best weights by nDCG@10."""
    rows = {
        "bce": {"query": "q", "document": "d", "label": 1.0},
        "infonce": {"query": "q", "documents": ["d", "e"], "label": [100.0, 0.0]},
        "marginmse": {"query": "q", "answer": "d", "negative_0": "e", "label": [1.0]},
    }
    material = Material([rows[name]], 1, [("q", "d", 0.5)], 4, 1)
    trainer = trainer_of(encoder, name, material, DevelopmentEvaluator([]), TrainOptions(), tmp_path, CPU)
    assert type(trainer.loss[OWN]) is kind
    for loss in trainer.loss.values():
        assert type(loss.activation_fn) is torch.nn.Identity
        assert not type(loss).__name__.startswith("Cached")
    assert type(trainer.loss[GENERAL]) is losses.MSELoss
    arguments = trainer.args
    assert not arguments.gradient_checkpointing
    assert (arguments.metric_for_best_model, arguments.greater_is_better) == (f"eval_{trainer.evaluator.primary_metric}", True)
    assert trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader()))).isfinite()


def test_infonce_is_the_softmax_over_the_listed_documents(encoder):
    query, documents = PAIR[0], [PAIR[1], "Bread rises.", "Rain falls."]
    loss = training.trainer_of.__globals__["loss_of"]("infonce", encoder.eval())
    with torch.inference_mode():
        found = loss([[query], [documents]], [torch.tensor([100.0, 0.0, 0.0])])
    logits = torch.from_numpy(logits_of(encoder, [(query, document) for document in documents]))
    assert found.item() == pytest.approx(-torch.log_softmax(logits, 0)[0].item(), abs=1e-4)


def test_batches_come_in_the_order_of_the_datasets(encoder, tmp_path):
    rows = [{"query": f"q{number}", "document": "d", "label": 1.0} for number in range(7)]
    general = [(f"g{number}", "d", 0.5) for number in range(4)]
    trainer = trainer_of(encoder, "bce", Material(rows, 2, general, 3, 1), DevelopmentEvaluator([]), TrainOptions(), tmp_path, CPU)
    found = [batch.get("query") or batch["general_query"] for batch in trainer.get_train_dataloader()]
    assert [query for batch in found for query in batch if query[0] == "q"] == [row["query"] for row in rows]
    assert [batch for batch in found if batch[0][0] == "g"] == [["g0", "g1", "g2"], ["g3"]]
    assert [batch[0][0] for batch in found] == ["q", "g", "q", "q", "g", "q"]
    assert Material(rows, 2, general, 3, 1).steps == len(found)


def test_only_the_document_of_a_long_pair_is_cut(encoder):
    query, long = "tides " * 10, "moon " * 100
    ids = encoder.preprocess([(query, long)])["input_ids"][0].tolist()
    whole = encoder.tokenizer(query)["input_ids"]
    assert len(ids) == 48
    assert ids[: len(whole)] == whole


def widths_of(encoder, action):
    """The widths of all that the model reads during the action."""
    found = set()
    hook = encoder[0].register_forward_pre_hook(lambda _, inputs: found.add(inputs[0]["input_ids"].shape[1]))
    action()
    hook.remove()
    return found


PAIRS = [("tides", f"moon {'moon ' * number}") for number in range(60)]


def test_pairs_of_many_lengths_are_read_in_few_widths(encoder, tmp_path):
    rows = [{"query": query, "document": document, "label": 1.0} for query, document in PAIRS[::7]]
    material = Material(rows, 1, [(*pair, 0.5) for pair in PAIRS[1::7]], 1, 1)
    trainer = trainer_of(encoder, "bce", material, DevelopmentEvaluator([]), TrainOptions(), tmp_path, CPU)
    batches = list(trainer.get_train_dataloader())
    assert widths_of(encoder, lambda: [trainer.compute_loss(trainer.model, batch) for batch in batches]) == {16, 32, 48}
    assert widths_of(encoder, lambda: logits_of(encoder, PAIRS)) <= {16, 32, 48}


@pytest.mark.parametrize("max_length", [40, 48, 185, 192])
def test_padding_changes_no_logit(max_length, source):
    """At any maximum length, of which transformers refuses to pad to a multiple that it is not itself."""
    encoder = encoder_of(load_start(source, None, max_length), max_length, CPU)
    pairs = [*PAIRS, ("tides", "moon " * 300)]
    found = logits_of(encoder, pairs)
    encoder[0].processing_kwargs = {"text": {"truncation": "only_second"}}
    np.testing.assert_allclose(found, np.concatenate([logits_of(encoder, [pair]) for pair in pairs]), rtol=0, atol=1e-4)


def scored(tmp_path, score):
    found = trainings.rows(60)
    for row in found:
        for document in (*row["positive"], *row["negative"]):
            document["score"] = float(score(row["query"], document["text"]))
    return trainings.write(tmp_path / "scored.jsonl", found)


def test_a_teacher_that_scores_as_the_checkpoint_teaches_nothing(source, encoder, tmp_path):
    def own(query, document):
        return logits_of(encoder, [(query, document)])[0] + 0.001

    tokenizer = load_start(source, None, 48).pair_tokenizer()
    for score, names in ((own, ("bce", None)), (lambda query, document: len(document) % 7, ("marginmse", "marginmse"))):
        queries = read_data([scored(tmp_path, score)], tokenizer).queries
        automatic, named = names
        assert choose(queries, TrainOptions(), lambda pairs: logits_of(encoder, pairs)) == automatic
        if named:
            assert choose(queries, TrainOptions(loss="marginmse"), lambda pairs: logits_of(encoder, pairs)) == named
        else:
            with pytest.raises(InputError, match="gives these documents the same ones already: it would learn nothing"):
                choose(queries, TrainOptions(loss="marginmse"), lambda pairs: logits_of(encoder, pairs))


def test_marginmse_without_scores(source, pairs, tmp_path):
    with pytest.raises(
        InputError, match="marginmse learns a teacher's scores, but 42 of 42 queries have documents without a score"
    ):
        train(source, tmp_path / "out", pairs, options={"loss": "marginmse"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "activation"), [("marginmse", "Identity"), pytest.param("infonce", "Identity", marks=pytest.mark.slow)]
)
def test_the_activation_after_losses_that_compare(name, activation, source, tmp_path):
    """The start declares none, so that its scores are sigmoids; a loss of differences gives logits no such meaning."""
    assert checkpoints.load(source).activation == "sigmoid"
    out = tmp_path / "out"
    pairs = scored(tmp_path, lambda query, document: len(document) % 7)
    train(source, out, pairs, options={"loss": name, "general": 0.0}, force=True)
    assert type(CrossEncoder(str(out), device="cpu").activation_fn).__name__ == activation
    assert checkpoints.load(str(out)).activation == "identity"


def test_what_cannot_be_trained(source, checkpoint_of, artifact, pairs, tmp_path):
    narrow = tmp_path / "narrow"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source)
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight[:, :64] = 0
    model.save_pretrained(narrow)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(narrow)
    prompted = modular.save_plain(tmp_path / "prompted", source, prompt="find: ")
    for folder, message in (
        (artifact, "is an artifact, which cannot be trained; expected the checkpoint that it was exported from"),
        (checkpoint_of("bert", 2), "has 2 labels; expected a reranker of one label"),
        (narrow, "is narrower than its layers, as `resift distill --width` makes it"),
        (prompted, "has a prompt, which the trained checkpoint would lose"),
    ):
        with pytest.raises(ExportError, match=message):
            train(folder, tmp_path / "out", pairs)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.train").exists()


def test_a_modular_checkpoint(source, tmp_path, pairs):
    folder = modular.save_modular(tmp_path / "modular", source, "reversed")
    with pytest.raises(ExportError, match="has modules of sentence-transformers, which the trained checkpoint would lose"):
        train(folder, tmp_path / "out", pairs)


def test_pairs_longer_than_the_model(source, pairs, tmp_path):
    with pytest.raises(InputError, match=r"max_length is 193, but .* reads at most 192 tokens"):
        train(source, tmp_path / "out", pairs, options={"max_length": 193})
    assert list(tmp_path.iterdir()) == []


def comparison(name, low, high):
    change = Difference(value=(low + high) / 2, low=low, high=high, p_value=0.5)
    return Comparison(name=name, pools=10, pairs=100, before={}, after={}, differences={"nDCG@10": change})


@pytest.mark.parametrize(
    ("gain", "guard", "count"),
    [
        ((0.01, 0.05), (-0.02, 0.0), 0),
        ((-0.05, 0.001), (-0.05, -0.0099), 0),
        ((-0.05, -0.001), (-0.02, 0.0), 1),
        ((0.01, 0.05), (-0.05, -0.011), 1),
        ((-0.05, -0.001), (-0.05, -0.011), 2),
    ],
)
def test_what_speaks_against_weights(gain, guard, count):
    """A gain below 0 beyond its interval, and a guard that loses more than a point beyond it."""
    found = judge.refusals(comparison("held-out", *gain), [comparison("guard", *guard)])
    assert len(found) == count
    assert any("held-out queries falls" in reason for reason in found) == (gain[1] < 0)


def test_worse_weights_are_not_written(source, pairs, tmp_path, monkeypatch, capsys):
    """Exit code 3, and the same command with --force writes what was trained, without training again."""
    monkeypatch.setattr(judge, "POINT", -1.0)  # any guard loses
    out = tmp_path / "out"
    command = ["train", source, str(out), "--data", str(pairs), "--threads", "1", "--device", "cpu", "--epochs", "1"]
    command += ["--max-length", "48", "--evaluations", "1", "--dtype", "float32"]
    assert main(command) == 3
    assert "nDCG@10 on the guard built-in guard falls by" in (said := capsys.readouterr()).err
    assert "built-in guard" in said.out
    assert not out.exists()
    monkeypatch.setattr(training, "trainer_of", lambda *_: pytest.fail("trained on"))
    assert main([*command, "--force"]) == 0
    assert decode_recipe((out / "recipe.json").read_bytes()).refusals
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_an_artifact_and_its_probabilities(source, pairs, unbroken, tmp_path, monkeypatch):
    """The export is the toolchain's own, tested there; here it copies the embedded model, which knows the answers."""
    embedded = delivery.Artifact.find("ms-marco-minilm-l12").folder
    made = []

    def convert(checkpoint, out, recipe, *, report):
        made.append(checkpoint)
        shutil.copytree(embedded, out)

    monkeypatch.setattr(delivery, "convert", convert)
    place = delivery.Delivery(tmp_path / "artifact")
    place.check(unbroken)
    held_out = train(source, unbroken, pairs).held_out
    assert place.make(unbroken, held_out).queries == 12
    assert made == [str(unbroken)]
    assert Settings.read(tmp_path / "artifact.toml").calibration is not None
    assert place.make(unbroken, held_out) is None
    with pytest.raises(OutputError, match="already exists; choose another --artifact, or delete it"):
        place.check(unbroken)  # its manifest is older than the training
    (tmp_path / "artifact" / "manifest.json").touch()
    monkeypatch.setattr(
        delivery.Artifact, "open", lambda folder: SimpleNamespace(manifest=SimpleNamespace(model=SimpleNamespace(id="trained")))
    )
    place.check(unbroken)
    with pytest.raises(OutputError, match="already exists; choose another --artifact, or delete it"):
        place.check(tmp_path / "another")


@pytest.mark.slow
def test_the_command_from_pairs_to_an_artifact(source, tmp_path, capsys):
    known = trainings.write(tmp_path / "pairs.jsonl", trainings.known_rows(60))
    command = ["train", source, str(tmp_path / "out"), "--data", str(known), "--max-length", "48", "--device", "cpu"]
    assert main([*command, "--artifact", str(tmp_path / "artifact")]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"pairs.jsonl", "out", "artifact", "artifact.toml"}
    assert "an artifact, with" in capsys.readouterr().out
    assert Settings.read(tmp_path / "artifact.toml").calibration.model == "out"
    assert main([*command, "--artifact", str(tmp_path / "artifact")]) == 0


def test_an_interruption_ends_the_export_of_the_artifact(tmp_path, monkeypatch, capsys, interruptible):
    """No state of the training is to be saved any more: it ends as `resift export` does, and before it if it came earlier."""
    command = ["train", "checkpoint", str(tmp_path / "out"), "--data", "pairs", "--artifact", str(tmp_path / "artifact")]
    done = SimpleNamespace(is_written=True, held_out=None, recipe=SimpleNamespace(is_finished=False))
    monkeypatch.setattr(training, "train", lambda *_, **__: done)
    monkeypatch.setattr(delivery, "convert", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    assert main(command) == 130
    assert capsys.readouterr().err == "resift: interrupted\n"
    monkeypatch.setattr(training, "train", lambda *_, **__: signal.raise_signal(signal.SIGINT) or done)
    monkeypatch.setattr(delivery, "convert", lambda *_, **__: pytest.fail("exported"))
    assert main(command) == 130


def killed_and_resumed(source, pairs, out, kills):
    for place, count in kills:
        done = trainings.killed(source, out, pairs, place, count)
        assert done.returncode == -9, done.stderr.decode()
    train(source, out, pairs, force=True)


@pytest.mark.parametrize(
    "kills",
    [
        [("step", 3), ("state", 2)],
        pytest.param([("saved", 1), ("saved", 2), ("step", 2)], marks=pytest.mark.slow),
        pytest.param([("general", 1), ("step", 5), ("placed", 1)], marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_it_is_the_same_to_the_bit(kills, source, pairs, unbroken, tmp_path):
    """Between steps, between the files of a state, before its mark, and between OUT and the end."""
    out = tmp_path / "trained"
    killed_and_resumed(source, pairs, out, kills)
    assert {path.name for path in tmp_path.iterdir()} == {"trained"}
    for path in unbroken.iterdir():
        if path.name != "recipe.json":
            assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    found, expected = (decode_recipe((folder / "recipe.json").read_bytes()) for folder in (out, unbroken))
    assert (found.curve, found.best_step, found.held_out) == (expected.curve, expected.best_step, expected.held_out)


@pytest.mark.slow
def test_killed_at_ten_random_moments(source, pairs, unbroken, tmp_path):
    out = tmp_path / "trained"
    generator = np.random.default_rng()
    kills = [(str(generator.choice(["step", "saved", "state"])), int(generator.integers(1, 6))) for _ in range(10)]
    for place, count in kills:
        done = trainings.killed(source, out, pairs, place, count)
        assert done.returncode in (-9, 0), (kills, done.stderr.decode())
    train(source, out, pairs, force=True)
    assert (out / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes(), kills


def test_stopped_it_goes_on(source, pairs, unbroken, tmp_path):
    out = tmp_path / "trained"
    for steps in (1, 2, 1):
        budget = iter(range(steps))
        found = train(source, out, pairs, should_continue=lambda budget=budget: next(budget, None) is not None, force=True)
        assert not found.is_written
        assert not out.exists()
        assert last_state(tmp_path / "trained.train") is not None
    assert train(source, out, pairs, force=True).is_written
    assert (out / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()


def test_a_held_out_query_is_in_no_batch(source, pairs):
    """Neither as a query nor by its answer, in what the trainer reads."""
    job = training._Job(source, None, TrainOptions(**trainings.OPTIONS), CPU)
    job.read([pairs], [], [])
    closed = split_queries(read_data([pairs], load_start(source, None, 48).pair_tokenizer()).queries, job.recipe.options)
    texts = {row[name] for row in job._rows for name in ("query", "document")}
    for part in (closed.held_out, closed.development):
        assert texts.isdisjoint({each.query for each in part} | {answer.text for each in part for answer in each.positive})
    assert len(texts) > 42

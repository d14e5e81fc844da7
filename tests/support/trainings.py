"""Pairs to train on, whose answers a model can learn to tell from the others, and trainings of tiny checkpoints."""

from __future__ import annotations

import json
import random

from tests.support import kills, tiny

OPTIONS = {"max_length": 48, "epochs": 1, "evaluations": 3, "lr": 1e-3, "negatives": 3, "batch": 8}


def rows(count, *, seed=3, negatives=5):
    """Queries of four words each, whose answer repeats them among others."""
    generator = random.Random(seed)
    words = [word for text in tiny.texts()[1::2] for word in text.split()]

    def row(number):
        query = f"{' '.join(generator.sample(words, 4))} {number}"
        others = [" ".join(generator.sample(words, 8)) for _ in range(negatives)]
        return {"query": query, "positive": [{"text": f"{query} {words[number]}"}], "negative": [{"text": text} for text in others]}

    return [row(number) for number in range(count)]


def known_rows(count, *, seed=3):
    """Queries whose answers the tiny checkpoints know: of words with even token ids, and the others of words with odd ones."""
    generator, tokenizer = random.Random(seed), tiny.backend("bert")
    words = sorted({word for text in tiny.texts() for word in text.split()})
    ids = {word: tokenizer.encode(word, add_special_tokens=False).ids for word in words}
    even, odd = ([word for word in words if ids[word] and all(each % 2 == rest for each in ids[word])] for rest in (0, 1))

    def row(number):
        text, *others = (" ".join(generator.sample(kind, 8)) for kind in (even, *[odd] * 5))
        return {"query": f"{generator.choice(words)} {number}", "positive": [text], "negative": others}

    return [row(number) for number in range(count)]


def write(path, found):
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


KILLED = """
import torch, transformers
from resift_export.train import course, state
from resift_export.train.options import TrainOptions
from resift_export.train.training import train

kill_at("step", torch.optim.AdamW, "step", after=True)
kill_at("state", transformers.Trainer, "_save_rng_state", after=False)  # between the files of a state
kill_at("saved", course, "flush", after=False)  # all files, but no mark
kill_at("general", state.TrainingFolder, "general", after=True)
kill_at("placed", state.TrainingFolder, "clear", after=False)  # OUT, but OUT.train is there
source, out, pairs, options = words
train(source, Path(out), [Path(pairs)], TrainOptions(**json.loads(options)), threads=1, device="cpu", force=True)
"""


def killed(source, out, pairs, place, count):
    """A training that is killed when it passes the place for the time numbered `count`, from 1."""
    return kills.killed(KILLED, (source, out, pairs, json.dumps(OPTIONS)), place, count)

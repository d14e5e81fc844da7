"""Pairs to train on, whose answers a model can learn to tell from the others, and trainings of tiny checkpoints."""

from __future__ import annotations

import json
import random

from tests.support import tiny

OPTIONS = {"max_length": 48, "epochs": 1, "evaluations": 3, "lr": 1e-3, "negatives": 3}


def rows(count, *, seed=3, negatives=5):
    """Queries of four words each, whose answer repeats them among others."""
    generator = random.Random(seed)
    words = [word for text in tiny.texts()[1::2] for word in text.split()]

    def row(number):
        query = f"{' '.join(generator.sample(words, 4))} {number}"
        others = [" ".join(generator.sample(words, 8)) for _ in range(negatives)]
        return {"query": query, "positive": [{"text": f"{query} {words[number]}"}], "negative": [{"text": text} for text in others]}

    return [row(number) for number in range(count)]


def write(path, found):
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path

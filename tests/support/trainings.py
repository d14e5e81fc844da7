"""Pairs to train on, whose answers a model can learn to tell from the others, and trainings of tiny checkpoints."""

from __future__ import annotations

import json
import random
import sys

from tests.support import children, tiny

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
import json, os, signal, sys
from pathlib import Path
import torch, transformers
from resift_export.train import course, state
from resift_export.train.options import TrainOptions
from resift_export.train.training import train

source, out, pairs, options, place, count = sys.argv[1:]
remaining = int(count)

def killing(owner, name, *, after):
    function = getattr(owner, name)
    def counted(*arguments, **more):
        global remaining
        remaining -= 1
        result = function(*arguments, **more) if remaining or after else None
        if not remaining:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, counted)

if place == "step":
    killing(torch.optim.AdamW, "step", after=True)
elif place == "state":  # between the files of a state
    killing(transformers.Trainer, "_save_rng_state", after=False)
elif place == "saved":  # all files, but no mark
    killing(course, "flush", after=False)
elif place == "general":
    killing(state.TrainingFolder, "general", after=True)
elif place == "placed":  # OUT, but OUT.train is there
    killing(state.TrainingFolder, "clear", after=False)
train(source, Path(out), [Path(pairs)], TrainOptions(**json.loads(options)), threads=1, device="cpu", force=True)
"""


def killed(arguments):
    """A training that kills itself: source, out, pairs, options as JSON, the place, and the times that it is passed."""
    return children.run([sys.executable, "-c", KILLED, *map(str, arguments)], capture_output=True)

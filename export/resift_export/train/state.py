"""state: the files of an unfinished training beside OUT, and the trained checkpoint, which appears whole or not at all.

The folder OUT.train next to OUT holds a lock, the plan, the logits of the general pairs and the trainer's states. OUT is written
only when the gain and the guards have been measured.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resift.errors import OutputError
from resift.files import lock
from resift.files.names import is_file_name
from resift.files.outputs import write_whole
from resift.files.placing import place
from resift.files.whole import read_whole
from resift_export.distill.recipe import RECIPE, RECIPE_LIMIT
from resift_export.train.recipe import TrainRecipe, decode_recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

LOCK, PLAN, GENERAL, NEW = "lock", "plan.json", "general.npy", "new"


class TrainingFolder:
    """The files of one training; `locked` reserves them for one process."""

    def __init__(self, out: Path) -> None:
        if not is_file_name(out):
            raise OutputError(f"{str(out)!r} is not a folder name; expected one")
        self.out = Path(os.path.realpath(out))
        self.folder = self.out.with_name(f"{self.out.name}.train")

    def check(self) -> None:
        """Raises OutputError if OUT is something that no training wrote."""
        if self.out.exists() and not self.out.is_dir():
            raise OutputError(f"{self.out} is not a folder; choose another OUT")
        if self.out.is_dir() and any(self.out.iterdir()) and not (self.out / RECIPE).is_file():
            raise OutputError(f"{self.out} holds files but no {RECIPE}, so no training wrote it; choose another OUT")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Creates and locks OUT.train. Raises OutputError if another process holds the lock, or it or OUT cannot be written."""
        self.check()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = lock.hold(self.folder / LOCK)
        except OSError as error:
            raise OutputError(f"cannot write next to {self.out}: {error.strerror}") from error
        try:
            yield
        finally:
            if (self.folder / PLAN).exists():
                file.close()
            else:
                lock.delete(file, self.folder / LOCK)
                with suppress(OSError):  # another process may have started and may hold a lock in it
                    self.folder.rmdir()

    def begun(self) -> TrainRecipe | None:
        """The plan of the training that is under way; None if there is none. Raises OutputError if it cannot be read."""
        return _read(self.folder / PLAN, f"delete {self.folder} to start anew")

    def finished(self) -> TrainRecipe | None:
        """The recipe in OUT; None if there is none. Raises OutputError if it cannot be read."""
        return _read(self.out / RECIPE, "choose another OUT")

    def begin(self, plan: TrainRecipe) -> None:
        """Writes the plan."""
        write_whole(self.folder / PLAN, plan.to_json())

    def general(self, count: int, score: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
        """The `count` logits that `score` gave once. Raises OutputError if the file of them is damaged."""
        path = self.folder / GENERAL
        if not path.exists():
            write_whole(path, score().astype("<f4").tobytes())
        logits = np.frombuffer(read_whole(path, 4 * count + 1), "<f4").astype(np.float32)
        if len(logits) != count:
            raise OutputError(f"{path} holds {len(logits)} logits; expected {count}: delete {self.folder} to start anew")
        return logits

    def write(self, save: Callable[[Path], None], recipe: TrainRecipe) -> None:
        """Places what `save` writes into a new folder, and the recipe, as OUT; then deletes OUT.train."""
        fresh = self.folder / NEW
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            save(fresh)
            (fresh / RECIPE).write_bytes(recipe.to_json())
            place(fresh, self.out)
            self.clear()
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"{self.out} cannot be written: {reason}; mend that, and the same command goes on") from error

    def clear(self) -> None:
        """Deletes all but the lock, the plan last: what a kill leaves is deleted by the next run. Raises OSError."""
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name == PLAN):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()


def _read(path: Path, mend: str) -> TrainRecipe | None:
    if not path.exists():
        return None
    try:
        return decode_recipe(read_whole(path, RECIPE_LIMIT))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read ({error}); {mend}") from error

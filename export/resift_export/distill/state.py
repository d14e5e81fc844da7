"""state: the state of an unfinished distillation, and its student so far, on disk.

The folder OUT.distill next to OUT holds a lock and `state.safetensors`: the trained weights, the optimizer's averages, the
teacher's logits for the development pools, and the recipe so far, which holds step and position. There is no other random state, as
draws are a function of seed and position. Every file is written under another name and renamed, so that a kill leaves the old or
the new one.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from resift.errors import OutputError
from resift.files import lock
from resift.files.names import is_file_name
from resift.files.placing import place
from resift.files.whole import read_whole
from resift_export.checkpoint.layers import expanded_state_dict
from resift_export.distill.recipe import RECIPE, RECIPE_LIMIT, DistillRecipe, decode_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from resift_export.checkpoint.load import Checkpoint

LOCK, STATE, NEW = "lock", "state.safetensors", "new"
STUDENT, AVERAGES, REFERENCE = "student.", "optimizer.", "development.logits"


@dataclass(frozen=True)
class State:
    """The content that `save` wrote last."""

    recipe: DistillRecipe
    tensors: dict[str, torch.Tensor]

    def weights(self) -> dict[str, torch.Tensor]:
        """The student's weights, by their names in the student."""
        return {name.removeprefix(STUDENT): value for name, value in self.tensors.items() if name.startswith(STUDENT)}


class Workspace:
    """The files of one distillation; `locked` reserves them for one process."""

    def __init__(self, out: Path) -> None:
        if not is_file_name(out):
            raise OutputError(f"{str(out)!r} is not a folder name; expected one")
        self.out = Path(os.path.realpath(out))
        self._folder = self.out.with_name(f"{self.out.name}.distill")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Creates and locks OUT.distill. Raises OutputError if another process holds the lock, or it or OUT cannot be written."""
        if self.out.exists() and not self.out.is_dir():
            raise OutputError(f"{self.out} is not a folder; choose another OUT")
        is_own = (self.out / RECIPE).is_file() or (self._folder / STATE).is_file()
        if self.out.is_dir() and any(self.out.iterdir()) and not is_own:
            raise OutputError(f"{self.out} holds files but no {RECIPE}, so no distillation wrote it; choose another OUT")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = lock.hold(self._folder / LOCK)
        except OSError as error:
            raise OutputError(f"cannot write next to {self.out}: {error.strerror}") from error
        try:
            yield
        finally:
            if (self._folder / STATE).exists():
                file.close()
            else:
                lock.delete(file, self._folder / LOCK)
                with suppress(OSError):  # another process may have started and may hold a lock in it
                    self._folder.rmdir()

    def load(self) -> State | None:
        """The state that `save` wrote last; None if there is none. Raises OutputError if it cannot be read."""
        path = self._folder / STATE
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                recipe = decode_recipe((file.metadata() or {})["recipe"].encode())
                return State(recipe, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - not a mapping
        except (SafetensorError, KeyError, OSError, ValueError) as error:
            raise OutputError(f"{path} cannot be read ({error}); delete {self._folder} to start anew") from error

    def finished_recipe(self) -> DistillRecipe | None:
        """The recipe in OUT; None if there is none. Raises OutputError if it cannot be read."""
        path = self.out / RECIPE
        if not path.exists():
            return None
        try:
            return decode_recipe(read_whole(path, RECIPE_LIMIT))
        except (OSError, ValueError) as error:
            raise OutputError(f"{path} cannot be read ({error}); choose another OUT") from error

    def save(self, recipe: DistillRecipe, tensors: dict[str, torch.Tensor]) -> None:
        """Replaces the state. Raises OutputError if it cannot be written; the previous state then stays."""
        fresh = self._folder / f"{STATE}.{NEW}"
        with _writing(fresh):
            save_file(tensors, fresh, metadata={"recipe": recipe.to_json().decode()})
            place(fresh, self._folder / STATE)

    def write_student(self, checkpoint: Checkpoint, student: Any, recipe: DistillRecipe) -> None:
        """Writes the student so far into OUT, file by file, the recipe last."""
        folder = self._folder / NEW
        with _writing(self.out):
            shutil.rmtree(folder, ignore_errors=True)
            student.save_pretrained(folder, state_dict=expanded_state_dict(student))
            checkpoint.tokenizer.save_pretrained(folder)
            self.out.mkdir(exist_ok=True)
            for path in sorted(folder.iterdir()):
                place(path, self.out / path.name)
            (folder / RECIPE).write_bytes(recipe.to_json())
            place(folder / RECIPE, self.out / RECIPE)
            folder.rmdir()

    def clear(self) -> None:
        """Deletes the state of a finished distillation."""
        with _writing(self._folder):
            (self._folder / f"{STATE}.{NEW}").unlink(missing_ok=True)
            (self._folder / STATE).unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise OutputError(f"{path} cannot be written: {reason}; mend that, and the same command goes on") from error

"""state: what an unfinished distillation has reached, and the student so far, on disk.

Next to OUT lies OUT.distill with a lock and `state.safetensors`: the trained weights, the optimizer's averages, the teacher's
logits for the development pools, and the recipe so far, which holds step and position. There is no other random state, as draws are
a function of seed and position. Every file is written aside and renamed, so that a kill leaves the one before or the new one.
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
from resift_export.checkpoint.layers import expanded
from resift_export.distill.recipe import RECIPE, DistillRecipe, decode

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from resift_export.checkpoint.load import Checkpoint

LOCK, STATE, NEW = "lock", "state.safetensors", "new"
STUDENT, AVERAGES, REFERENCE = "student.", "optimizer.", "development.logits"


@dataclass(frozen=True)
class State:
    """What `save` wrote last."""

    recipe: DistillRecipe
    tensors: dict[str, torch.Tensor]

    def weights(self) -> dict[str, torch.Tensor]:
        """The student's, by their names in it."""
        return {name.removeprefix(STUDENT): value for name, value in self.tensors.items() if name.startswith(STUDENT)}


class Home:
    """The files of one distillation; `held` makes them one process's."""

    def __init__(self, out: Path) -> None:
        if not is_file_name(out):
            raise OutputError(f"{str(out)!r} is not a folder name; expected one")
        self.out = Path(os.path.realpath(out))
        self._home = self.out.with_name(f"{self.out.name}.distill")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Creates and locks OUT.distill. Raises OutputError if another process holds it, or it or OUT cannot be written."""
        if self.out.exists() and not self.out.is_dir():
            raise OutputError(f"{self.out} is not a folder; choose another OUT")
        is_own = (self.out / RECIPE).is_file() or (self._home / STATE).is_file()
        if self.out.is_dir() and any(self.out.iterdir()) and not is_own:
            raise OutputError(f"{self.out} holds files but no {RECIPE}, so no distillation wrote it; choose another OUT")
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            file = lock.hold(self._home / LOCK)
        except OSError as error:
            raise OutputError(f"cannot write next to {self.out}: {error.strerror}") from error
        try:
            yield
        finally:
            if (self._home / STATE).exists():
                file.close()
            else:
                lock.delete(file, self._home / LOCK)
                with suppress(OSError):  # a process that has started since holds a lock in it
                    self._home.rmdir()

    def load(self) -> State | None:
        """What `save` wrote last; None if nothing. Raises OutputError if it cannot be read."""
        path = self._home / STATE
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                recipe = decode((file.metadata() or {})["recipe"].encode())
                return State(recipe, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - not a mapping
        except (SafetensorError, KeyError, OSError, ValueError) as error:
            raise OutputError(f"{path} cannot be read ({error}); delete {self._home} to start anew") from error

    def finished(self) -> DistillRecipe | None:
        """The recipe in OUT; None if there is none. Raises OutputError if it cannot be read."""
        path = self.out / RECIPE
        if not path.exists():
            return None
        try:
            return decode(path.read_bytes())
        except (OSError, ValueError) as error:
            raise OutputError(f"{path} cannot be read ({error}); choose another OUT") from error

    def save(self, recipe: DistillRecipe, tensors: dict[str, torch.Tensor]) -> None:
        """Replaces the state. Raises OutputError if it cannot be written, in which case the one before stays."""
        fresh = self._home / f"{STATE}.{NEW}"
        with _writing(fresh):
            save_file(tensors, fresh, metadata={"recipe": recipe.encoded().decode()})
            place(fresh, self._home / STATE)

    def place(self, checkpoint: Checkpoint, student: Any, recipe: DistillRecipe) -> None:
        """Writes the student so far into OUT, file by file, the recipe last."""
        folder = self._home / NEW
        with _writing(self.out):
            shutil.rmtree(folder, ignore_errors=True)
            student.save_pretrained(folder, state_dict=expanded(student))
            checkpoint.tokenizer.save_pretrained(folder)
            self.out.mkdir(exist_ok=True)
            for path in sorted(folder.iterdir()):
                place(path, self.out / path.name)
            (folder / RECIPE).write_bytes(recipe.encoded())
            place(folder / RECIPE, self.out / RECIPE)
            folder.rmdir()

    def clear(self) -> None:
        """Deletes the state of a finished distillation."""
        with _writing(self._home):
            (self._home / f"{STATE}.{NEW}").unlink(missing_ok=True)
            (self._home / STATE).unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise OutputError(f"{path} cannot be written: {reason}; mend that, and the same command goes on") from error

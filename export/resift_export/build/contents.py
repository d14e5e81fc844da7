"""contents: the graphs of an artifact in progress, and the files that they are written to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resift.plans import FULL
from resift_export.build.graph_files import (
    WrittenModel,
    frozen_file,
    with_packed,
    with_short,
    write_first_look,
    write_frozen,
    write_frozen_look,
    write_graphs,
)
from resift_export.build.reuse import copy_first_look, copy_graphs, first_look_of, models_of
from resift_export.build.write import write

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping
    from pathlib import Path

    import onnx_ir as ir

    from resift.artifact.certificate import Certificate
    from resift.artifact.folder import Artifact
    from resift_export.build.graph_files import CopiedGraph, FrozenGraphs, FrozenModels, GraphFiles
    from resift_export.build.short import ShortModel
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.recipe import Recipe


class Contents:
    """What is in the folder of an artifact in progress, after each `write_graphs` and `write`."""

    def __init__(self, folder: Path, recipe: Recipe, earlier: Artifact | None) -> None:
        """`earlier`: the artifact whose full graphs are copied, and its first look unless there is another; None: none are."""
        self._folder, self._recipe, self._earlier = folder, recipe, earlier
        self.models: MutableMapping[str, ir.Model] = {}
        """the full graphs by file, if none are copied"""
        self.short_models: dict[str, ShortModel] = {}
        """the graphs for short pairs, by the file of their variant"""
        self.packed_models: Mapping[str, ir.Model] = {}
        """the graphs that compute no padding, likewise"""
        self.frozen_models: FrozenModels | None = None
        """those of the full graphs"""
        self.first_look: WrittenModel | None = None
        """a first look that is not copied"""
        self.first_look_models: Mapping[str, ir.Model] = {}
        """its graphs, by file"""
        self.frozen_look: FrozenModels | None = None
        """what takes its place, or that of the first look that is copied"""
        self.verdicts: list[str] = []
        """what was found of frozen graphs, for the record"""
        self.look: WrittenModel | CopiedGraph | None = None
        """the first look that is in the folder"""
        self._frozen: FrozenGraphs | None = None

    def write_graphs(self, checkpoint: Checkpoint, operations: int) -> None:
        """Writes all graphs in place of those in the folder. `operations`: of the full graph, per token."""
        earlier, short, packed, fingerprint = self._earlier, {}, {}, None
        if earlier is None:
            graphs = write_graphs(self._folder, self.models)
        else:
            graphs, fingerprint = copy_graphs(earlier, earlier.manifest.full, self._folder), earlier.fingerprint()
            short = {variant.file: variant.short for variant in earlier.manifest.full.variants if variant.short is not None}
            packed = {variant.file: variant.packed for variant in earlier.manifest.full.variants if variant.packed is not None}
        full = WrittenModel(checkpoint, graphs, operations, fingerprint, short, packed)
        self.full = with_packed(self._folder, with_short(self._folder, full, self.short_models), self.packed_models)
        self._frozen = write_frozen(self._folder, self.frozen_models, graphs)
        self.look = self._write_first_look(graphs)

    def write(self, certificate: Certificate, *, is_forced: bool, plan: str | None = None) -> Artifact:
        """Writes the files around the graphs."""
        return write(
            self._folder,
            self._recipe,
            self.full,
            certificate,
            is_forced=is_forced,
            first_look=self.look,
            frozen=self._frozen,
            verdicts=self.verdicts,
            plan=plan,
        )

    def full_file(self, file: str) -> str:
        """The file of the full graph that was made from the variant `file`: its own, or that of its frozen graph."""
        return frozen_file(file) if self._frozen is not None and self._frozen.is_full else file

    def models_of(self, name: str, scratch: Path) -> tuple[Mapping[str, ir.Model], Path]:
        """The graphs of the full model or of the first look, as they are if not frozen, and the folder for their sessions.

        `scratch`: the folder of the folders for sessions. The weights of graphs that are copied are written there.
        """
        models, earlier = self.models if name == FULL else self.first_look_models, self._earlier
        graph = None if models or earlier is None else earlier.manifest.full if name == FULL else first_look_of(earlier)
        if graph is None or earlier is None:
            return models, scratch / name
        return models_of(earlier, graph, scratch / f"kept-{name}"), scratch / f"kept-{name}"

    def _write_first_look(self, graphs: Mapping[str, GraphFiles]) -> WrittenModel | CopiedGraph | None:
        look: WrittenModel | CopiedGraph | None = None
        kept = None if self._earlier is None else first_look_of(self._earlier)
        if self.first_look is not None:
            look = self.first_look._replace(graphs=write_first_look(self._folder, self.first_look_models, graphs))
        elif kept is not None and self._earlier is not None:
            look = copy_first_look(self._earlier, kept, self._folder)
        if look is None or self.frozen_look is None:
            return look
        return write_frozen_look(self._folder, look, self.frozen_look, graphs)

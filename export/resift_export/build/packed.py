"""packed: the graph of a float16 variant that computes no padding.

Its attention is an operator that only CUDA has, so that it is checked in two parts. Here, a float32 graph that is packed in the
same way, but for attention, has to give the logits of each row alone. On a GPU, the engine runs it only if it computes the logits
that the certificate holds of the variant, and otherwise the variant's other graph.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from resift_export.graph.mask import add_mask, check_mask
from resift_export.graph.pack import pack, packed_attentions

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from resift_export.build.draft import TracedModel
    from resift_export.recipe import Recipe

log = logging.getLogger(__name__)


def packed_models(models: Mapping[str, ir.Model], traced: TracedModel, recipe: Recipe) -> dict[str, ir.Model]:
    """The packed graphs of the recipe's masked variants, by the variant's file; none unless the recipe asks for them.

    `models`: the variants' graphs by file. `traced`: the float32 graph that they were made from. Raises ExportError if its layers
    cannot be packed, or if packed rows get other logits.
    """
    files = [variant.file for variant in recipe.variants() if variant.is_masked] if recipe.packed else []
    packed = {file: pack(models[file].clone(), fuses=True) for file in files}
    for file, model in packed.items():
        log.info("pack      %s: attention of %d layers reads packed rows", file, sum(1 for _ in packed_attentions(model)))
    if files:
        plain = pack(add_mask(traced.model.clone()), fuses=False)
        check_mask(plain, traced.model, traced.checkpoint, traced.scratch, mend="leave --packed out")
    return packed

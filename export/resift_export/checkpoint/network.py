"""network: a checkpoint as one function from token ids to logits, for pairs without padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from resift.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from resift_export.checkpoint.labels import Label

POOLINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "cls": lambda tokens: tokens[:, 0],
    "lasttoken": lambda tokens: tokens[:, -1],
    "max": lambda tokens: tokens.amax(1),
    "mean": lambda tokens: tokens.mean(1),
}
"""Functions from [b, width, size] to [b, size], by the name of the mode in sentence-transformers' Pooling."""


class Network(torch.nn.Module):
    """A module that takes inputs int64[b, width] by position and returns logits float32[b, labels]."""

    def __init__(self, model: torch.nn.Module, names: tuple[str, ...], *, encoder: Any | None, label: Label | None) -> None:
        """`names`: the names of the inputs. `encoder`: a modular checkpoint's CrossEncoder, whose first module runs `model`."""
        super().__init__()
        self.model = model
        self.names = names
        self.label = label
        self.steps = torch.nn.ModuleList([] if encoder is None else list(encoder)[1:])

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Runs the model and its modules, if it has any, and reduces the logits to the relevant label, if one was chosen."""
        outputs = self.model(**dict(zip(self.names, inputs, strict=True)))
        logits: torch.Tensor = self._scores(outputs) if len(self.steps) else outputs.logits
        return logits if self.label is None else self.label.of(logits)

    def _scores(self, outputs: Any) -> torch.Tensor:
        """The output of the last module. Each module reads and writes features by name, as in sentence-transformers."""
        features = {"scores": outputs.logits} if "logits" in outputs else {"token_embeddings": outputs.last_hidden_state}
        steps: Iterable[Any] = self.steps
        for step in steps:
            if type(step).__name__ == "Pooling":
                features["sentence_embedding"] = pool_tokens(features["token_embeddings"], step.pooling_mode)
            else:
                features = step(features)
        scores: torch.Tensor = features["scores"]
        return scores


def pool_tokens(tokens: torch.Tensor, modes: str | Sequence[str]) -> torch.Tensor:
    """[b, modes x size] from [b, width, size]: the output of sentence-transformers' Pooling for inputs without padding.

    The library's own module reads the attention mask: the traced graph would search it for the first token, and would compute all
    tokens in the last layer.
    """
    return torch.cat([POOLINGS[mode](tokens) for mode in _modes(modes)], dim=-1)


def _modes(modes: str | Sequence[str]) -> Sequence[str]:
    return [modes] if isinstance(modes, str) else modes


def check_steps(encoder: Any, prompt: str, source: str) -> None:
    """Raises ExportError if `Network` does not support a module's settings, or if the last module does not output scores."""
    for step in [step for step in encoder if type(step).__name__ == "Pooling"]:
        if unsupported := [mode for mode in _modes(step.pooling_mode) if mode not in POOLINGS]:
            raise ExportError(f"the Pooling of {source} has the mode {unsupported[0]}; expected {', '.join(POOLINGS)}")
        if prompt and not step.include_prompt:
            raise ExportError(
                f"the Pooling of {source} leaves the prompt out (include_prompt is false); expected it to read all tokens"
            )
    last = list(encoder)[-1]
    if len(encoder) == 1 or getattr(last, "module_output_name", None) != "scores":
        raise ExportError(
            f"the last module of {source}, {type(last).__name__}, gives no scores; expected one whose module_output_name "
            "is scores, as a CrossEncoder has"
        )

"""Checkpoints as sentence-transformers 6 saves them, made from the tiny trained ones. Needs sentence-transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

PROMPT = "find what answers this question: "


def encoder(folder: Path | str, **options: Any) -> Any:
    """The CrossEncoder of a folder."""
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(folder), device="cpu", local_files_only=True, **options)


def save_plain(folder: Path, source: Path, *, activation: Any = None, prompt: str | None = None) -> Path:
    """Saves the sequence classifier at `source` again with another activation and a default prompt."""
    prompts = {} if prompt is None else {"prompts": {"search": prompt, "other": "x: "}, "default_prompt_name": "search"}
    encoder(source, activation_fn=activation, **prompts).save_pretrained(str(folder))
    return folder


def save_modular(folder: Path, source: Path, kind: str, *, prompt: str | None = None) -> Path:
    """Saves one of the `KINDS` of modular checkpoints, with the weights of the tiny classifier at `source`."""
    import transformers
    from sentence_transformers import CrossEncoder

    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(source)
    prompts = {} if prompt is None else {"prompts": {"search": prompt}, "default_prompt_name": "search"}
    modules = KINDS[kind](source, classifier)
    CrossEncoder(modules=modules, device="cpu", **prompts).save_pretrained(str(folder))
    return folder


def _reversed(source: Path, classifier: Any) -> list[Any]:
    """The classifier, then Dense(-3)."""
    dense = _dense(_column(-3.0), None, name="scores")
    return [*encoder(source), dense]


def _ettin(source: Path, classifier: Any) -> list[Any]:
    """ModernBERT's head as the ettin rerankers have it: Pooling, Dense, LayerNorm, Dense."""
    import torch
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    head, last = classifier.head, classifier.classifier
    norm = LayerNorm(head.norm.normalized_shape[0])
    norm.norm.weight.data = head.norm.weight.data
    norm.norm.eps = head.norm.eps
    first = _dense(head.dense, torch.nn.GELU())
    return [_transformer(source), Pooling(head.dense.in_features, "cls"), first, norm, _dense(last, None, out="scores")]


def _pooled(mode: str | tuple[str, ...]) -> Any:
    """BERT's pooler and classifier as modules, after a pooling of tokens of `mode`."""

    def make(source: Path, classifier: Any) -> list[Any]:
        import torch
        from sentence_transformers.sentence_transformer.modules import Pooling

        pooler, last = classifier.bert.pooler.dense, classifier.classifier
        count = 1 if isinstance(mode, str) else len(mode)
        joined = torch.nn.Linear(pooler.in_features * count, pooler.out_features)
        joined.weight.data = torch.cat([pooler.weight.data / count] * count, dim=1)
        joined.bias.data = pooler.bias.data
        dense = _dense(joined, torch.nn.Tanh())
        return [_transformer(source), Pooling(pooler.in_features, mode), dense, _dense(last, None, out="scores")]

    return make


KINDS = {
    "reversed": _reversed,
    "ettin": _ettin,
    "cls": _pooled("cls"),
    "mean": _pooled("mean"),
    "max": _pooled("max"),
    "last": _pooled("lasttoken"),
    "both": _pooled(("cls", "mean")),
    "weighted": _pooled("weightedmean"),
}


def _transformer(source: Path) -> Any:
    from sentence_transformers.base.modules import Transformer

    return Transformer(str(source))


def _dense(linear: Any, activation: Any, *, name: str = "sentence_embedding", out: str | None = None) -> Any:
    import torch
    from sentence_transformers.base.modules import Dense

    dense = Dense(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        activation_function=torch.nn.Identity() if activation is None else activation,
        module_input_name=name,
        module_output_name=out,
    )
    dense.linear.load_state_dict(linear.state_dict())
    return dense


def _column(weight: float) -> Any:
    import torch

    linear = torch.nn.Linear(1, 1)
    linear.weight.data.fill_(weight)
    linear.bias.data.fill_(0.5)
    return linear

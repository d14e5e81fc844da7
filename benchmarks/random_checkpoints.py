"""Checkpoints with random weights and the configurations of well-known rerankers, and therefore their real sizes.

Vocabularies hold pieces learnt from the built-in texts, padded with made-up pieces to the real size.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import resift_export

TEXTS = Path(resift_export.__file__).parent / "data" / "calibration.jsonl"
LEARNT_PIECES = 6000
BERT_LIKE = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
ROBERTA_LIKE = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
BERT_PAIR = ("[CLS]", "[SEP]", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1")
PLAIN_PAIR = ("[CLS]", "[SEP]", "[CLS] $A [SEP] $B [SEP]")
ROBERTA_PAIR = ("<s>", "</s>", "<s> $A </s> </s> $B </s>")
MODERNBERT = {"vocab_size": 50368, "pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
MODERNBERT_BASE = MODERNBERT | {"hidden_size": 768, "num_hidden_layers": 22, "num_attention_heads": 12, "intermediate_size": 1152}


class Kind(NamedTuple):
    """The configuration of a reranker."""

    model: str
    """transformers' name of the model family, such as Bert for BertConfig"""
    config: dict[str, Any]
    """settings that differ from the family's defaults, as in the checkpoint's config.json"""
    tokenizer: str
    """WordPiece, BPE or Unigram"""
    pair: tuple[str, str, str]
    """first and last special token, and the template of a pair"""
    max_length: int
    is_modular: bool = False
    """whether a Pooling and two Dense layers of sentence-transformers 6 compute the score, as in the ettin rerankers"""


KINDS = {
    "ettin-17m": Kind("ModernBert", MODERNBERT | {"hidden_size": 256, "num_hidden_layers": 7, "num_attention_heads": 4,
        "intermediate_size": 384, "max_position_embeddings": 7999}, "BPE", PLAIN_PAIR, 7999, is_modular=True),
    "electra-base": Kind("Electra", {"vocab_size": 30522, "embedding_size": 768, "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "intermediate_size": 3072}, "WordPiece", BERT_PAIR, 512),
    "ettin-150m": Kind("ModernBert", MODERNBERT_BASE | {"max_position_embeddings": 7999}, "BPE", PLAIN_PAIR, 7999, is_modular=True),
    "gte-modernbert-base": Kind("ModernBert", MODERNBERT_BASE | {"max_position_embeddings": 8192,
        "classifier_pooling": "mean"}, "BPE", PLAIN_PAIR, 8192),
    "deberta-v3-base": Kind("DebertaV2", {"vocab_size": 128100, "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "intermediate_size": 3072, "relative_attention": True, "position_buckets": 256,
        "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": -1,
        "position_biased_input": False, "type_vocab_size": 0, "pooler_hidden_size": 768, "pooler_hidden_act": "gelu"},
        "Unigram", BERT_PAIR, 512),
    "bge-m3-568m": Kind("XLMRoberta", {"vocab_size": 250002, "hidden_size": 1024, "num_hidden_layers": 24,
        "num_attention_heads": 16, "intermediate_size": 4096, "max_position_embeddings": 8194, "type_vocab_size": 1,
        "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}, "Unigram", ROBERTA_PAIR, 8192),
}  # fmt: skip


def save(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Writes one of the `KINDS` into `folder`, unless it exists, and returns the folder.

    Weights are drawn with the standard deviation 1 / sqrt(hidden size), so that the logits of pairs differ.
    """
    import torch
    import transformers

    if (folder / "config.json").exists():
        return folder
    kind = KINDS[name]
    torch.manual_seed(seed)
    std = 1 / math.sqrt(kind.config["hidden_size"])
    wide = (
        {"initializer_range": std, "initializer_cutoff_factor": 3.0} if kind.model == "ModernBert" else {"initializer_range": std}
    )
    config = getattr(transformers, f"{kind.model}Config")(**kind.config, **wide, num_labels=1)
    fast = tokenizer(kind)
    if kind.is_modular:
        _save_modular(folder, transformers.AutoModel.from_config(config), fast, config)
    else:
        transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        fast.save_pretrained(folder)
    return folder


def _save_modular(folder: Path, model: Any, fast: Any, config: Any) -> None:
    """Transformer, Pooling, Dense, LayerNorm and Dense, saved by sentence-transformers."""
    import tempfile

    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    size = config.hidden_size
    with tempfile.TemporaryDirectory() as bare:
        model.save_pretrained(bare)
        fast.save_pretrained(bare)
        modules = [
            Transformer(bare, transformer_task="feature-extraction"),
            Pooling(size, "cls"),
            Dense(size, size, activation_function=torch.nn.GELU()),
            LayerNorm(size),
            Dense(size, 1, activation_function=torch.nn.Identity(), module_output_name="scores"),
        ]
        CrossEncoder(modules=modules, device="cpu").save_pretrained(str(folder))


def tokenizer(kind: Kind) -> Any:
    """A tokenizer of that kind with the real vocabulary size."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ROBERTA_LIKE if kind.pair is ROBERTA_PAIR else BERT_LIKE
    size = kind.config["vocab_size"] - (1 if kind.tokenizer == "BPE" else 0)
    bare = tokenizers.Tokenizer(models.BPE())
    if kind.tokenizer == "WordPiece":
        bare.normalizer, bare.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        learnt, _ = _learn(bare)
        pieces = _pad([*special.values(), *learnt, *(f"##{piece}" for piece in learnt)], size)
        bare.model = models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token=special["unk_token"])
    elif kind.tokenizer == "Unigram":
        bare.normalizer, bare.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
        pieces = _pad([*special.values(), *_learn(bare)[0]], size)
        likelihoods = [(piece, -math.log(number)) for number, piece in enumerate(pieces, 1)]
        bare.model = models.Unigram(likelihoods, unk_id=pieces.index(special["unk_token"]), byte_fallback=False)
        bare.add_special_tokens(list(special.values()))
    else:
        bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        learnt, merges = _learn(bare, pre_tokenizers.ByteLevel.alphabet())
        pieces = _pad([*special.values(), *learnt], size)
        bare.model = models.BPE({piece: number for number, piece in enumerate(pieces)}, merges)
        bare.add_special_tokens(list(special.values()))
    first, last, pair = kind.pair
    ids = [(token, bare.token_to_id(token)) for token in (first, last)]
    bare.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", pair=pair, special_tokens=ids)
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if kind.pair is BERT_PAIR else [])
    roles = {**special, "cls_token": first, "sep_token": last}
    return PreTrainedTokenizerFast(tokenizer_object=bare, model_max_length=kind.max_length, model_input_names=names, **roles)


def _learn(bare: Any, alphabet: list[str] | None = None) -> tuple[list[str], list[tuple[str, str]]]:
    """Pieces of the built-in texts, split as by `bare` and learnt by byte-pair encoding, and their merges."""
    import tokenizers
    from tokenizers import models, trainers

    learner = tokenizers.Tokenizer(models.BPE())
    learner.normalizer, learner.pre_tokenizer = bare.normalizer, bare.pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=LEARNT_PIECES, initial_alphabet=alphabet or [], show_progress=False)
    lines = [json.loads(line) for line in TEXTS.read_text().splitlines()]
    learner.train_from_iterator([text for line in lines for text in (line["query"], line["document"])], trainer)
    vocabulary = learner.get_vocab()
    merges = json.loads(learner.to_str())["model"]["merges"]
    return sorted(vocabulary, key=vocabulary.__getitem__), [tuple(merge) for merge in merges]


def _pad(pieces: list[str], size: int) -> list[str]:
    return pieces + [f"<made-up-{number}>" for number in range(size - len(pieces))]

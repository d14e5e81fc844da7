"""Tiny cross-encoders of every supported family, trained for seconds, with tokenizers trained on our own texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

import resift_export

MAX_LENGTH = 192
SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "initializer_range": 0.12}
VOCABULARY = 1200
TEXTS = Path(resift_export.__file__).parent / "data"

BERT_LIKE = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
ROBERTA_LIKE = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}


def texts() -> list[str]:
    """Our own queries and documents, to train tokenizers on."""
    lines = [json.loads(line) for line in (TEXTS / "calibration.jsonl").read_text().splitlines()]
    return [text for line in lines for text in (line["query"], line["document"])]


def config(family: str, labels: int = 1) -> Any:
    """The family's configuration for transformers."""
    import transformers

    common = {**SIZE, "vocab_size": VOCABULARY, "num_labels": labels, "max_position_embeddings": MAX_LENGTH}
    roberta = {**common, "max_position_embeddings": MAX_LENGTH + 2, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    distilbert = {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "initializer_range": 0.12}
    relative = {"relative_attention": True, "position_buckets": 32, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
    special = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    layers = {"num_hidden_layers": 4, "local_attention": 16, "initializer_cutoff_factor": 3.0}
    names, given = {
        "bert": ("Bert", common),
        "electra": ("Electra", {**common, "embedding_size": 32}),
        "distilbert": ("DistilBert", {**distilbert, **{name: common[name] for name in common.keys() - SIZE.keys()}}),
        "mpnet": ("MPNet", {**common, "max_position_embeddings": MAX_LENGTH + 2, "pad_token_id": 1}),
        "albert": ("Albert", {**common, "embedding_size": 32, "inner_group_num": 1}),
        "roberta": ("Roberta", {**roberta, "type_vocab_size": 1}),
        "xlm-roberta": ("XLMRoberta", {**roberta, "type_vocab_size": 1}),
        "deberta-v2": ("DebertaV2", {**common, **relative, "position_biased_input": False, "type_vocab_size": 0}),
        "modernbert": ("ModernBert", {**common, **layers, **special}),
    }[family]
    return getattr(transformers, f"{names}Config")(**given)


FAMILIES = ("bert", "electra", "distilbert", "mpnet", "albert", "roberta", "xlm-roberta", "deberta-v2", "modernbert")


def tokenizer(family: str) -> Any:
    """The family's kind of tokenizer: WordPiece, byte-level BPE or Unigram, with its own template of a pair."""
    if family == "roberta":
        return _byte_level(ROBERTA_LIKE, "<s>", "</s>", "<s> $A </s> </s> $B </s>")
    if family == "modernbert":
        return _byte_level(BERT_LIKE, "[CLS]", "[SEP]", "[CLS] $A [SEP] $B [SEP]")
    if family == "xlm-roberta":
        return _unigram(ROBERTA_LIKE, "<s>", "</s>", "<s> $A </s> </s> $B </s>")
    if family in ("deberta-v2", "albert"):
        return _unigram(BERT_LIKE, "[CLS]", "[SEP]", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1")
    if family == "mpnet":
        return _wordpiece(ROBERTA_LIKE, "<s>", "</s>", "<s> $A </s> </s> $B </s>")
    return _wordpiece(BERT_LIKE, "[CLS]", "[SEP]", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1")


def _wordpiece(special: dict[str, str], first: str, last: str, pair: str) -> Any:
    tok = tokenizers.Tokenizer(models.WordPiece(unk_token=special["unk_token"]))
    tok.normalizer = normalizers.BertNormalizer()
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY - 1, special_tokens=list(special.values()), show_progress=False)
    return _finish(tok, trainer, special, first, last, pair)


def _byte_level(special: dict[str, str], first: str, last: str, pair: str) -> Any:
    tok = tokenizers.Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1, special_tokens=list(special.values()), initial_alphabet=alphabet, show_progress=False
    )
    return _finish(tok, trainer, special, first, last, pair)


def _unigram(special: dict[str, str], first: str, last: str, pair: str) -> Any:
    tok = tokenizers.Tokenizer(models.Unigram())
    tok.normalizer = normalizers.NFKC()
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY - 1, special_tokens=list(special.values()), unk_token=special["unk_token"], show_progress=False
    )
    return _finish(tok, trainer, special, first, last, pair)


def _finish(tok: Any, trainer: Any, special: dict[str, str], first: str, last: str, pair: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    tok.train_from_iterator(texts(), trainer)
    ids = [(token, tok.token_to_id(token)) for token in (first, last)]
    tok.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", pair=pair, special_tokens=ids)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    roles = {"cls_token": first, "sep_token": last}
    return PreTrainedTokenizerFast(
        tokenizer_object=tok, model_max_length=MAX_LENGTH, model_input_names=names, **{**special, **roles}
    )


def save(folder: Path, family: str, *, labels: int = 1, seed: int = 0) -> Path:
    """Writes a checkpoint folder and returns it."""
    import torch
    import transformers

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = transformers.AutoModelForSequenceClassification.from_config(config(family, labels))
    fast = tokenizer(family)
    _train(model, fast)
    model.eval().save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def _train(model: Any, fast: Any, steps: int = 120) -> None:
    """Teaches the model which share of a pair's tokens has even ids.

    A few seconds that give its logits a range that means something: those of random weights differ by less than any int8
    could keep.
    """
    import torch

    lines = [json.loads(line) for line in (TEXTS / "calibration.jsonl").read_text().splitlines()]
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-3)
    for _ in range(steps):
        rows = [lines[row] for row in torch.randint(len(lines), (16,))]
        queries, documents = [row["query"] for row in rows], [row["document"] for row in rows]
        batch = fast(queries, documents, truncation=True, max_length=40, padding=True, return_tensors="pt")
        if getattr(model.config, "type_vocab_size", 0) < 2:
            del batch["token_type_ids"]
        mask = batch["attention_mask"]
        even = ((batch["input_ids"] % 2 == 0) * mask).sum(1) / mask.sum(1)
        loss = torch.nn.functional.mse_loss(model(**batch).logits[:, -1], 20 * (even - 0.5))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

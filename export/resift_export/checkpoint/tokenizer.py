"""tokenizer: a checkpoint's tokenizer, as its own tokenizer.json has it.

transformers builds a tokenizer by a class. Since version 5, most classes take only the vocabulary and the template of a pair from
tokenizer.json; the normalizer and the pre-tokenizer are the class's own. The model was trained with what the file says.
"""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import tokenizers
import transformers
from tokenizers import normalizers

from resift.artifact.manifest import TOKENIZER
from resift.encoding.tokenizer_check import SOURCE_BYTES, check_tokenizer
from resift.errors import ArtifactError, ExportError, first_line
from resift.files.whole import read_whole
from resift_export.checkpoint.config import check_mark, read_json
from resift_export.checkpoint.transformers import load_error, suppressed_logs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from tokenizers import Encoding, Tokenizer

    from resift_export.checkpoint.config import CheckpointConfig

VOCABULARIES = (
    TOKENIZER,
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
)
"""Files that hold the vocabulary of a tokenizer."""
SETTINGS = "tokenizer_config.json"
SEGMENTS = "token_type_ids"
"""transformers' name for segment ids."""
PROBES = (
    "Where do the Rivers BEGIN?  At springs,\tglaciers or lakes.",
    "how do glaciers move",
    "Déjà vu in français, Ångström, İstanbul, Straße, e\u0301te\u0301",
    "\ufb01ne \uff21\uff22\uff11 x\u00b2 \u2460 non\u00adbreaking\u00a0space zero\u200bwidth",
    "東京の河川 日本語 北京的河流 한국어 문장",
    "Реки начинаются зимой; मूल नदियाँ; الأنهار; น้ำตก",
    "  leading and   trailing spaces  ",
    "ISO-8859-1 v2.0.1 3.14159 1,234,567 $9.99 50% (a+b)*c == d[0] && !e",
    "``quoted'' \"text\" it's don't \u2018curly\u2019 \u2014 dash\u2026",
    "line\r\nbreak\n\nparagraph 🌊🚀",
    "snake_case camelCase kebab-case https://example.org/a?b=c#d",
)
"""Texts by which two tokenizers are compared: capitals, accents, compatibility forms, scripts, spaces, numbers, code."""
DECLARED = {
    "do_lower_case": ("BertNormalizer", "lowercase"),
    "strip_accents": ("BertNormalizer", "strip_accents"),
    "tokenize_chinese_chars": ("BertNormalizer", "handle_chinese_chars"),
    "add_prefix_space": ("ByteLevel", "add_prefix_space"),
}
"""Options in tokenizer_config.json that every version of transformers puts above tokenizer.json, and what they are there."""
FIRST_WITHOUT_SEGMENTS = 5
"""The first version of transformers that has classes whose tokenizers give no segment ids although tokenizer.json has them."""
PIECES = 8
"""How many pieces of a text are shown from the first in which two tokenizers differ."""

log = logging.getLogger(__name__)


class OtherTokens(NamedTuple):
    """A text of which two tokenizers make different ids or segment ids."""

    text: str
    file: Encoding
    """by tokenizer.json"""
    built: Encoding
    """by the class that transformers builds"""

    def __str__(self) -> str:
        rows = [list(zip(each.ids, each.type_ids, each.tokens, strict=True)) for each in (self.file, self.built)]
        start = next((at for at, (row, other) in enumerate(zip(*rows, strict=False)) if row != other), min(map(len, rows)))
        column = 1 if self.file.ids == self.built.ids else 0
        shown = [" ".join(f"{token[2]}:{token[column]}" for token in row[start : start + PIECES]) or "nothing" for row in rows]
        return f"{self.text!r:.80} gives {shown[0]:.200} by tokenizer.json and {shown[1]:.200} by the class"


def load_tokenizer(folder: Path, config: CheckpointConfig, *, reads_segments: bool, texts: Sequence[str] = ()) -> Any:
    """The tokenizer, whose ids are those of tokenizer.json, if there is one, and whose segment ids are those of the training.

    `reads_segments`: whether the model tells query and document apart by segment ids. `texts`: texts by which tokenizer.json is
    compared with the class that transformers builds, in addition to PROBES; a difference is a warning. Raises ExportError if the
    tokenizer cannot be loaded, joins or cuts pairs in another way than the engine, or if its files contradict one another.
    """
    if not any((folder / name).is_file() for name in VOCABULARIES):
        # transformers would silently create an empty tokenizer.
        raise ExportError(
            f"{folder} has no tokenizer; expected one of {', '.join(VOCABULARIES)}: save the model's own tokenizer in its folder"
        )
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    names = settings.get("model_input_names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ExportError(f"{folder} has model_input_names {names!r:.80} in {SETTINGS}; expected the names of the model's inputs")
    tokenizer = _load(folder, settings, texts)
    if not config.modules and tokenizer.chat_template:
        raise ExportError(
            f"{folder} has a chat template, by which CrossEncoder joins a pair, but resift joins it by tokenizer.json: remove the "
            "template from the checkpoint if it was trained without it"
        )
    if tokenizer.truncation_side != "right":
        raise ExportError(
            f"{folder} cuts a long document at its beginning (truncation_side is {tokenizer.truncation_side!r:.80}), but resift "
            f"cuts its end: set truncation_side to right in {SETTINGS} if that is what you want"
        )
    if tokenizer.split_special_tokens:
        raise ExportError(
            f"{folder} reads a special token in a text as plain text (split_special_tokens is true in {SETTINGS}), but resift "
            "reads it as the token: set it to false if that is what you want"
        )
    feeds_segments = reads_segments and _feeds_segments(tokenizer, folder, config, settings)
    names = [name for name in tokenizer.model_input_names if name != SEGMENTS]
    tokenizer.model_input_names = [*names, SEGMENTS] if feeds_segments else names
    tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # so that a copy declares it
    if config.is_lower_case:
        normalizer = tokenizer.backend_tokenizer.normalizer
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Lowercase(), *([] if normalizer is None else [normalizer])]
        )
    return tokenizer


def share_tokenizer(tokenizer: Any, other: Any) -> None:
    """Makes `other` encode as `tokenizer` does; both are tokenizers of transformers."""
    other._tokenizer = tokenizer.backend_tokenizer  # noqa: SLF001 - there is no other way to set it
    other.model_input_names = tokenizer.model_input_names


def _load(folder: Path, settings: Mapping[str, Any], texts: Sequence[str]) -> Any:
    """The tokenizer by the class that transformers builds, encoding as tokenizer.json does, if there is one."""
    file = folder / TOKENIZER
    if file.is_file():
        try:
            content = read_whole(file, SOURCE_BYTES)
            check_mark(file, content)
            check_tokenizer(content)
        except (ArtifactError, OSError) as error:
            raise ExportError(f"{folder}: {first_line(error)}") from error
    own = None
    if file.is_file():
        with suppressed_logs("transformers.tokenization_utils_base", "not the same type as the class"):
            own = _from_pretrained(transformers.PreTrainedTokenizerFast, folder)
    mend = f"; set tokenizer_class in {SETTINGS} to PreTrainedTokenizerFast, which reads tokenizer.json as it is"
    built = _from_pretrained(transformers.AutoTokenizer, folder, "" if own is None else mend)
    if not getattr(built, "is_fast", False):
        raise ExportError(f"{folder} has only a slow tokenizer, {type(built).__name__}; expected one with a tokenizer.json")
    if own is None:
        if "do_lower_case" not in settings:
            _check_case(built, folder)
        return built
    difference = _first_difference(own.backend_tokenizer, built.backend_tokenizer, [*PROBES, *texts], folder)
    if difference is not None:
        _check_declared(folder, settings, own.backend_tokenizer, difference)
        log.warning(
            "warning   %s, built by transformers %s as a %s, has other tokens than its tokenizer.json: %s; tokenizer.json is what "
            "the artifact and the reference read",
            *(folder, transformers.__version__, type(built).__name__, difference),
        )
    own.model_input_names = built.model_input_names
    share_tokenizer(own, built)
    return built


def _check_case(built: Any, folder: Path) -> None:
    """Warns if the class converts texts to lower case by default and the vocabulary has pieces with capitals."""
    normalizer = built.backend_tokenizer.normalizer
    if normalizer is None or normalizer.normalize_str("A") != "a":
        return
    capitals = sorted(piece for piece in set(built.get_vocab()) - set(built.all_special_tokens) if piece != piece.lower())
    if capitals:
        log.warning(
            "warning   %s does not say whether case counts (do_lower_case in %s): %s converts texts to lower case, although the "
            "vocabulary has pieces with capitals, such as %s",
            *(folder, SETTINGS, type(built).__name__, capitals[0][:80]),
        )


def _from_pretrained(kind: Any, folder: Path, mend: str = "") -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library has no errors of its own
        if "untagged enum" in str(error):
            mend = f"; it may be of a later version of tokenizers than {tokenizers.__version__}: pip install --upgrade tokenizers"
        raise load_error(folder, error, f"{folder} has no tokenizer that transformers can load", mend) from error


def _first_difference(file: Tokenizer, built: Tokenizer, texts: Sequence[str], folder: Path) -> OtherTokens | None:
    """The first of the texts whose pair with another text the two encode differently."""
    pairs = [(text, "a document") for text in texts]
    encoded = []
    for tokenizer in (file, built):
        tokenizer.no_truncation()
        tokenizer.no_padding()
        try:
            encoded.append(tokenizer.encode_batch(pairs))
        except Exception as error:
            raise ExportError(f"{folder} has a tokenizer that cannot encode a text: {first_line(error)}") from error
    for text, one, other in zip(texts, *encoded, strict=True):
        if (one.ids, one.type_ids) != (other.ids, other.type_ids):
            return OtherTokens(text, one, other)
    return None


def _check_declared(folder: Path, settings: Mapping[str, Any], file: Tokenizer, difference: OtherTokens) -> None:
    """Raises ExportError if tokenizer_config.json declares an option otherwise than tokenizer.json has it."""
    components = [*_components(file.normalizer), *_components(file.pre_tokenizer)]
    for option, (kind, field) in DECLARED.items():
        found = [component.get(field) for component in components if component.get("type") == kind]
        if option in settings and any(value != settings[option] for value in found):
            raise ExportError(
                f"{folder} contradicts itself: {SETTINGS} has {option} {settings[option]!r:.40}, but the {kind} of tokenizer.json "
                f"has another {field}, so {difference}; expected the same: change the one that the model was not trained with"
            )


def _components(component: Any) -> Iterator[dict[str, Any]]:
    """A normalizer or pre-tokenizer and all those in it, as tokenizer.json has them."""
    waiting = [] if component is None else [json.loads(component.__getstate__())]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _feeds_segments(tokenizer: Any, folder: Path, config: CheckpointConfig, settings: Mapping[str, Any]) -> bool:
    """Whether the model was trained with the segment ids of its tokenizer.json; otherwise all of them are 0.

    tokenizer_config.json says it by model_input_names. If it says nothing, the class of the tokenizer does; those of transformers 4
    all give segment ids, and some of transformers 5 do not. Raises ExportError for a checkpoint that a later version saved with
    such a class, as it may have been trained with an earlier one.
    """
    if "model_input_names" in settings or SEGMENTS in tokenizer.model_input_names:
        return SEGMENTS in tokenizer.model_input_names
    if not any(tokenizer.backend_tokenizer.encode("a query", "a document").type_ids):
        return False
    version = str(config.model_config.get("transformers_version", ""))
    major = re.match(r"\d+", version)
    if "backend" in settings or (major and int(major[0]) >= FIRST_WITHOUT_SEGMENTS):
        raise ExportError(
            f"{folder} does not say whether its model was trained with segment ids: tokenizer.json has them, but "
            f"{type(tokenizer).__name__} of transformers 5 does not give them to the model; expected model_input_names in "
            f'{SETTINGS}: add ["input_ids", "{SEGMENTS}", "attention_mask"], without {SEGMENTS} if it was trained without them'
        )
    return True

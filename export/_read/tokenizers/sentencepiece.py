"""Tokenizers of DeBERTa-v2, XLM-R and CamemBERT checkpoints without tokenizer.json: sentencepiece's own file.

The result is the tokenizer that their fast classes of transformers 4 make of the same folder, with which such
checkpoints were trained and published. Where transformers 5 differs: of DeBERTa's files it leaves out sentencepiece's
table of characters and strips other spaces.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from crossrank._artifact.special_tokens import SpecialDefaults, read_special_tokens
from crossrank._artifact.tokenizer_class import DEBERTA_TOKENS, SENTENCE_TOKENS
from crossrank._errors import CheckpointError, UnsupportedModelError, join_problems
from crossrank._interrupts import not_thrown_in
from crossrank._json import has_entry, read_file

from .special_tokens import add_special_tokens
from .wordpiece import conversion_command, kind_in_folder

Piece = tuple[str, float]

FILES = ("spm.model", "sentencepiece.bpe.model")
_SPACE = "▁"
_UNIGRAM, _CONTROL, _USER_DEFINED = 1, 3, 4
# Of sentencepiece_model.proto (https://github.com/google/sentencepiece/blob/v0.2.0/src/sentencepiece_model.proto) the
# fields that are read, with their numbers and types, and the default of one: a trainer may leave it out.
_Field = descriptor_pb2.FieldDescriptorProto
_MESSAGES: dict[str, dict[str, tuple[int, Any]]] = {
    "SentencePiece": {
        **{"piece": (1, _Field.TYPE_STRING), "score": (2, _Field.TYPE_FLOAT), "type": (3, _Field.TYPE_INT32)},
    },
    "TrainerSpec": {"model_type": (3, _Field.TYPE_INT32), "unk_id": (40, _Field.TYPE_INT32)},
    "NormalizerSpec": {"precompiled_charsmap": (2, _Field.TYPE_BYTES)},
    "ModelProto": {
        **{"pieces": (1, "SentencePiece"), "trainer_spec": (2, "TrainerSpec")},
        **{"normalizer_spec": (3, "NormalizerSpec")},
    },
}


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a class of transformers makes of a file.

    Attributes:
        tokens: The class's special tokens.
        pieces: The vocabulary, of the file's pieces.
        unknown: Place of the unknown token, None for where the file says.
        normalize: Steps of the normalizer around sentencepiece's table of characters, given the settings.
        template: What goes around one text, and around two.
        additional: More special tokens, unless the settings name some.
    """

    tokens: SpecialDefaults
    pieces: Callable[[Sequence[Piece]], list[Piece]]
    unknown: int | None
    normalize: Callable[[Mapping[str, bool], list[Any]], list[Any]]
    template: tuple[str, str]
    additional: tuple[str, ...] = ()


def _as_deberta(settings: Mapping[str, bool], table: list[Any]) -> list[Any]:
    lowercase = [normalizers.Lowercase()] if settings["do_lower_case"] else []
    return [*lowercase, normalizers.Strip(), *table, normalizers.Replace(Regex(" {2,}"), " ")]


def _as_xlm_roberta(settings: Mapping[str, bool], table: list[Any]) -> list[Any]:
    return [*table, normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), _SPACE)]


_PLAIN = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
_NOT_USED = [("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0), ("<unk>NOTUSED", -100.0)]
_MASK = [("<mask>", 0.0)]
_TWO_SEPARATORS = ("<s> $A </s>", "<s> $A </s> </s> $B </s>")
_KINDS = {
    "debertav2": _Kind(
        DEBERTA_TOKENS,
        list,
        None,
        _as_deberta,
        ("[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"),
    ),
    "xlmroberta": _Kind(
        SENTENCE_TOKENS, lambda pieces: [*_PLAIN, *pieces[3:], *_MASK], 3, _as_xlm_roberta, _TWO_SEPARATORS
    ),
    "camembert": _Kind(
        SENTENCE_TOKENS,
        lambda pieces: [*_NOT_USED, *pieces[1:], *_MASK],
        3,
        _as_xlm_roberta,
        _TWO_SEPARATORS,
        ("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"),
    ),
}


def build_sentencepiece(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a checkpoint that has one of `FILES`.

    Args:
        folder: Holds it; may hold special_tokens_map.json and added_tokens.json, and a config.json, which says whose
            file this is where ``settings`` do not.
        settings: tokenizer_config.json, or empty.

    Raises:
        CheckpointError: If the file or a setting is damaged, or special tokens are missing.
        UnsupportedModelError: If it is the file of another tokenizer class, or of another model than Unigram.
    """
    path = next(folder / name for name in FILES if has_entry(folder / name))
    name = kind_in_folder(folder, settings, default="nothing says which")
    kind = _KINDS.get(name)
    if kind is None:
        raise UnsupportedModelError(
            f"{path}: the file of a tokenizer class that is not known here ({name}); read are those of "
            f"{', '.join(_KINDS)}. {_advice(folder)}"
        )
    model = _read(path)
    if model.trainer_spec.model_type != _UNIGRAM:
        raise UnsupportedModelError(
            f"{path}: sentencepiece's model type is {model.trainer_spec.model_type}; supported is Unigram (1). "
            f"{_advice(folder)}"
        )
    stated = _switches(folder, settings)
    pieces = kind.pieces([(piece.piece, piece.score) for piece in model.pieces])
    unknown = model.trainer_spec.unk_id if kind.unknown is None else kind.unknown
    if not 0 <= unknown < len(pieces):
        raise CheckpointError(f"{path}: the unknown token's id is {unknown}; the file has {len(pieces)} pieces")
    tokenizer = Tokenizer(models.Unigram(pieces, unknown, False))
    marked = [piece for piece in model.pieces if piece.type in (_CONTROL, _USER_DEFINED)]
    tokenizer.add_tokens([AddedToken(p.piece, normalized=False, special=p.type == _CONTROL) for p in marked])
    table = model.normalizer_spec.precompiled_charsmap
    try:
        steps = [normalizers.Precompiled(table)] if table else []
    except not_thrown_in(Exception) as error:  # what tokenizers raises has no base
        raise CheckpointError(f"{path}: its table of characters is damaged: {error!s:.200}") from error
    tokenizer.normalizer = normalizers.Sequence(kind.normalize(stated, steps))
    splitters: list[Any] = [pre_tokenizers.Punctuation(behavior="isolated")] if stated["split_by_punct"] else []
    splitters.append(pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splitters) if kind.normalize is _as_deberta else splitters[0]
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
    special = _add_tokens(tokenizer, kind, folder, settings, path)
    single, pair = kind.template
    named = {part.split(":")[0] for part in pair.split() if "$" not in part}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, special[token]) for token in sorted(named)]
    )
    return tokenizer


def _add_tokens(
    tokenizer: Tokenizer, kind: _Kind, folder: Path, settings: Mapping[str, Any], path: Path
) -> dict[str, int]:
    """Add what the other files name, and give the ids of all tokens that are looked for in a text."""
    more = {"additional_special_tokens": list(kind.additional)} if kind.additional else {}
    tokens = read_special_tokens(folder, {**more, **settings}, kind.tokens)
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    added = [token for token in tokens.added if token.content not in known or token.content in tokens.ids]
    # A mask is what a pretraining adds: transformers gives it the next id where no file has it.
    mask = tokens.named.get("mask_token")
    named = {name: text for name, text in tokens.named.items() if text != mask}
    add_special_tokens(tokenizer, replace(tokens, named=named, added=tuple(added)), folder, path.name)
    return tokenizer.get_vocab(with_added_tokens=True)


def _switches(folder: Path, settings: Mapping[str, Any]) -> dict[str, bool]:
    values = {name: settings.get(name, False) for name in ("do_lower_case", "split_by_punct")}
    problems = [
        f"tokenizer_config.json: {name} is {value!r:.60}; true or false expected"
        for name, value in values.items()
        if not isinstance(value, bool)
    ]
    if problems:
        raise CheckpointError(join_problems(str(folder), problems))
    return values


def _advice(folder: Path) -> str:
    return (
        f"Transformers 4 may convert it:\n  pip install 'transformers<5' sentencepiece protobuf\n  "
        f"{conversion_command(folder)}"
    )


def _read(path: Path) -> Any:
    """A file's message."""
    model = _model_class()()
    try:
        model.ParseFromString(read_file(path))
    except not_thrown_in(Exception) as error:  # protobuf's implementations raise errors of their own
        raise CheckpointError(f"{path}: no model of sentencepiece: {error!s:.200}") from error
    if not model.pieces:
        raise CheckpointError(f"{path}: no model of sentencepiece: it has no pieces")
    return model


@cache
def _model_class() -> Any:
    """A class for sentencepiece's ModelProto, in a pool of its own: sentencepiece may be loaded too."""
    file = descriptor_pb2.FileDescriptorProto(
        name="crossrank/sentencepiece.proto", package="crossrank", syntax="proto2"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            label = _Field.LABEL_REPEATED if field == "pieces" else _Field.LABEL_OPTIONAL
            entry = message.field.add(name=field, number=number, label=label)
            if field == "model_type":
                entry.default_value = str(_UNIGRAM)
            if isinstance(kind, str):
                entry.type, entry.type_name = _Field.TYPE_MESSAGE, f".crossrank.{kind}"
            else:
                entry.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("crossrank.ModelProto"))

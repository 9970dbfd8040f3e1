"""The special and added tokens that stand outside a tokenizer.json, as transformers 4's fast tokenizers read them.

They stand in tokenizer_config.json, special_tokens_map.json and added_tokens.json, which overlap. The first makes the
other two void if it has ``added_tokens_decoder`` (since transformers 4.34); without it special_tokens_map.json wins.
What none of them names has the default of the tokenizer's class.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from crossrank._errors import CheckpointError, join_problems
from crossrank._interrupts import not_thrown_in
from crossrank._json import has_entry, read_json_object

# In the order in which transformers adds them.
_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


@dataclass(frozen=True, slots=True)
class SpecialDefaults:
    """What a tokenizer class takes where the files are silent.

    Attributes:
        tokens: Special tokens by name, as in ``{"cls_token": "[CLS]"}``.
        normalized: Whether one that is a plain string is looked for in normalized text.
        also_normalized: Names of those that are, where the others are not.
        mask_strips: Whether a mask token that is a plain string takes the spaces before it along.
    """

    tokens: Mapping[str, str]
    normalized: bool = False
    also_normalized: tuple[str, ...] = ()
    mask_strips: bool = False


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What the files of a checkpoint say.

    Attributes:
        named: Special tokens by name.
        added: All tokens that are looked for in a text before it is split, each text once, in the order of adding.
        ids: The id that the files give an added token, by its text.
    """

    named: dict[str, str]
    added: tuple[AddedToken, ...]
    ids: dict[str, int]


def read_special_tokens(folder: Path, settings: Mapping[str, Any], defaults: SpecialDefaults) -> SpecialTokens:
    """Read the special and added tokens of a checkpoint.

    Args:
        folder: May hold special_tokens_map.json and added_tokens.json.
        settings: tokenizer_config.json, or empty.
        defaults: Those of the tokenizer's class.

    Raises:
        CheckpointError: If something there is no token, all at once; null is none for a token of the class.
    """
    values, numbered = _merge_files(folder, settings)
    named = {name: values.get(name, defaults.tokens.get(name)) for name in _NAMES}
    named = {name: value for name, value in named.items() if value is not None or name in defaults.tokens}
    extra = [*_listed(values.get("additional_special_tokens")), *_listed(values.get("extra_special_tokens"))]
    problems = [f"{name} is {value!r:.60}; a token is expected" for name, value in named.items() if not _text(value)]
    problems += [
        f"{value!r:.60} is among the special tokens; a token is expected" for value in extra if not _text(value)
    ]
    problems += [
        f"{value!r:.60} is an added token with id {key!r:.20}; a token and a whole number are expected"
        for key, value in numbered
        if not _text(value) or not str(key).isdecimal() or len(str(key)) > 9
    ]
    if problems:
        raise CheckpointError(join_problems(str(folder), problems))

    special = {_text(value) for value in [*named.values(), *extra]}
    stated = {int(key): value for key, value in numbered}
    said = {_text(value) for value in [*(values.get(name) for name in named), *extra]}
    tokens = [
        # One of added_tokens.json that no file calls special is looked for in normalized text, whatever its class says.
        _token(
            {"content": value, "normalized": value not in said} if isinstance(value, str) else value,
            special=_text(value) in special or _flag(value, "special"),
        )
        for _, value in sorted(stated.items())
    ]
    for name, value in named.items():
        strips = defaults.mask_strips and name == "mask_token"
        normalized = (defaults.normalized and not strips) or name in defaults.also_normalized
        plain = {"content": value, "normalized": normalized, "lstrip": strips}
        tokens.append(_token(plain if isinstance(value, str) else value, special=True))
    # Of equal texts among these the last counts, elsewhere the first.
    tokens += [_token(value, special=True) for value in {_text(value): value for value in extra}.values()]
    first: dict[str, AddedToken] = {}
    for token in tokens:
        first.setdefault(token.content, token)
    return SpecialTokens(
        {name: _text(value) for name, value in named.items()},
        tuple(first.values()),
        {_text(value): key for key, value in stated.items()},
    )


def require_ids(tokenizer: Tokenizer, ids: Mapping[str, int], folder: Path, file: str) -> None:
    """Refuse added tokens that did not get the ids which the files give them, and which the model knows.

    Args:
        tokenizer: Has the tokens.
        ids: The id that is stated for each of them, by its text.
        folder: The checkpoint, for messages.
        file: What they were added to, for messages.

    Raises:
        CheckpointError: Naming all of them (transformers 4 numbers them anew).
    """
    problems = [
        f"the added token {token!r:.60} is to have id {stated}, and gets {given} after {file}"
        for token, stated in ids.items()
        if (given := tokenizer.token_to_id(token)) != stated
    ]
    if problems:
        raise CheckpointError(join_problems(str(folder), problems))


def _merge_files(folder: Path, settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[Any, Any]]]:
    """The settings with what the other files add, and the added tokens as pairs of id and token."""
    decoder = settings.get("added_tokens_decoder")
    if decoder is not None:
        return dict(settings), list(decoder.items()) if isinstance(decoder, Mapping) else [(None, decoder)]
    special = _read_optional(folder / "special_tokens_map.json")
    if "additional_special_tokens" in special:  # the only key that adds to the other file's
        both = (settings.get("additional_special_tokens"), special["additional_special_tokens"])
        special["additional_special_tokens"] = [token for tokens in both for token in _listed(tokens)]
    ids = _read_optional(folder / "added_tokens.json")
    return {**settings, **special}, [(key, content) for content, key in ids.items()]


def _read_optional(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path) if has_entry(path) else {}
    except not_thrown_in(OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _listed(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):  # extra_special_tokens of transformers 4: by name
        return value.values()
    return value if isinstance(value, list) else [] if value is None else [value]


def _text(token: Any) -> str:
    """The text of a token, a string or an object with ``content``; empty if it is neither, or has no UTF-8."""
    content = token.get("content") if isinstance(token, Mapping) else token
    lone = isinstance(content, str) and any("\ud800" <= letter <= "\udfff" for letter in content)
    return content if isinstance(content, str) and not lone else ""


def _flag(token: Any, name: str) -> bool:
    return isinstance(token, Mapping) and bool(token.get(name))


def _token(token: Any, *, special: bool) -> AddedToken:
    flags = {name: bool(token[name]) for name in _FLAGS if isinstance(token, Mapping) and name in token}
    return AddedToken(_text(token), special=special, **flags)

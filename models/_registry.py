"""The registry: `registry.toml` as checked, typed entries, and names to entries.

The file is written by hand, so mistakes in it are expected: all of them are reported in one error.
What an entry is used for is left to the callers.
"""

import difflib
import functools
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, NamedTuple, get_args

Activation = Literal["Sigmoid", "Identity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredModel:
    """What is known of one published cross-encoder without downloading it.

    The fields are the keys of `registry.toml`, explained in `README.md` beside it. None means not
    known, or that the field does not apply. `checked` says where each of the others comes from.
    """

    id: str
    revision: str | None = None
    names: tuple[str, ...]
    architecture: str
    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int
    labels: int
    relevant_label: int | None = None
    bare_projection: bool | None = None
    activation: Activation
    max_length: int
    licence: str
    docs_per_sec_v100: int | None = None
    docs_per_sec_v100_python: int | None = None
    docs_per_sec_h100: int | None = None
    docs_per_sec_cpu: int | None = None
    ndcg10_mteb: float | None = None
    checked: tuple[str, ...]
    note: str | None = None


class _Rule(NamedTuple):
    allowed: str  # in words, for the message
    holds: Callable[[object], bool]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_number(value: object, *, least: int = 1) -> bool:
    # Not isinstance: a TOML boolean is an int to Python.
    return type(value) is int and value >= least


_TEXT = _Rule("a non-empty string", _is_text)
_TEXTS = _Rule(
    "a list of one or more non-empty strings",
    lambda value: isinstance(value, list) and value != [] and all(map(_is_text, value)),
)
_NUMBER = _Rule("a whole number from 1 up", _is_number)

_REQUIRED = {
    "id": _TEXT,
    "names": _TEXTS,
    "architecture": _TEXT,
    "layers": _NUMBER,
    "hidden": _NUMBER,
    "heads": _NUMBER,
    "intermediate": _NUMBER,
    "vocabulary": _NUMBER,
    "labels": _Rule("1 to 3", lambda value: _is_number(value) and value in (1, 2, 3)),
    "activation": _Rule("Sigmoid or Identity", lambda value: value in get_args(Activation)),
    "max_length": _NUMBER,
    "licence": _TEXT,
    "checked": _TEXTS,
}
_OPTIONAL = {
    "revision": _Rule(
        "40 lower-case hexadecimal digits (leave it out where it is not known)",
        lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{40}", value) is not None,
    ),
    "relevant_label": _Rule("0 or 1", lambda v: _is_number(v, least=0) and v in (0, 1)),
    "bare_projection": _Rule("true (leave it out otherwise)", lambda value: value is True),
    "docs_per_sec_v100": _NUMBER,
    "docs_per_sec_v100_python": _NUMBER,
    "docs_per_sec_h100": _NUMBER,
    "docs_per_sec_cpu": _NUMBER,
    "ndcg10_mteb": _Rule("a number between 0 and 1", lambda value: isinstance(value, float) and 0 < value < 1),
    "note": _TEXT,
}
_RULES = _REQUIRED | _OPTIONAL


def parse_registry(text: str) -> tuple[RegisteredModel, ...]:
    """The models of a registry file, in the file's order.

    Args:
        text: the file's content, TOML with one `[[model]]` table per model.

    Returns:
        One entry per table.

    Raises:
        ValueError: the text is not TOML, or an entry has unknown, missing or wrong keys, or a name
            stands twice; the message lists every problem with its entry and key.
    """
    document = tomllib.loads(text)  # its error is a ValueError, with line and column
    tables = document.pop("model", None)
    problems = [f"{key} is not a known key, only [[model]] tables are" for key in document]
    if not isinstance(tables, list) or not tables or not all(isinstance(t, dict) for t in tables):
        problems.append("there must be one or more [[model]] tables")
        tables = []
    for number, table in enumerate(tables, start=1):
        where = f"model {number} ({table.get('id', 'no id')})"
        problems += [f"{where}: {problem}" for problem in _problems_of(table)]
    # Names are looked up in any case, so they must differ by more than their case.
    names = Counter(name.lower() for table in tables for name in _names_of(table))
    problems += [f"the name {name} stands {n} times, must stand once" for name, n in names.items() if n > 1]
    if problems:
        raise ValueError("the model registry is not right:\n- " + "\n- ".join(problems))
    return tuple(_model(table) for table in tables)


def _problems_of(table: Mapping[str, object]) -> Iterator[str]:
    for key in sorted(table.keys() - _RULES.keys()):
        nearest = difflib.get_close_matches(key, _RULES, n=1)
        yield f"{key} is not a known key" + (f", did you mean {nearest[0]}?" if nearest else "")
    for key, rule in _RULES.items():
        if key in table and not rule.holds(table[key]):
            yield f"{key} = {table[key]!r}, must be {rule.allowed}"
        elif key in _REQUIRED and key not in table:
            yield f"{key} is missing, must be {rule.allowed}"
    if table.get("labels") in (1, 3) and "relevant_label" in table:
        yield f"relevant_label is there, must be left out where labels = {table['labels']}"
    if table.get("labels") == 2 and "relevant_label" not in table:
        yield "relevant_label is missing, must be 0 or 1 where labels = 2"


def _names_of(table: Mapping[str, object]) -> Iterator[str]:
    """The id and the names of a table that may still be wrong: what of them is text."""
    names = table.get("names")
    for name in (table.get("id"), *(names if isinstance(names, list) else ())):
        if isinstance(name, str):
            yield name


def _model(table: Mapping[str, Any]) -> RegisteredModel:
    """The entry of a table without problems."""
    lists = {"names": tuple(table["names"]), "checked": tuple(table["checked"])}
    values: dict[str, Any] = {**table, **lists}
    return RegisteredModel(**values)


@functools.cache
def load_registry() -> tuple[RegisteredModel, ...]:
    """The models of the registry that is installed with crossrank, in the file's order.

    Returns:
        The entries; read once, the same objects at every call.

    Raises:
        ValueError: the file has mistakes; all of them are listed.
    """
    file = resources.files("crossrank.models") / "registry.toml"
    return parse_registry(file.read_text(encoding="utf-8"))


@functools.cache
def _by_name() -> Mapping[str, tuple[str, RegisteredModel]]:
    """Every id and name in lower case -> how it is written, and its model."""
    models = load_registry()
    return {name.lower(): (name, model) for model in models for name in (model.id, *model.names)}


def find_model(name: str) -> RegisteredModel | None:
    """The model that goes by a name.

    Args:
        name: a hub id or one of the other names in the registry, whole, in upper or lower case.

    Returns:
        The entry, or None where the registry has no such name (`nearest_names` has suggestions).

    Raises:
        ValueError: the registry file has mistakes.

    >>> model = find_model("sentence-transformers/ce-ms-marco-TinyBERT-L-2")
    >>> model.id if model else None
    'cross-encoder/ms-marco-TinyBERT-L2'
    """
    found = _by_name().get(name.lower())
    return found[1] if found else None


def nearest_names(name: str, *, count: int = 3) -> list[str]:
    """The names most like a mistyped one, for "did you mean".

    Args:
        name: what was asked for.
        count: how many suggestions at most, 1 or more.

    Returns:
        Names of different models, each in the spelling nearest to `name`, most alike first; fewer
        than `count`, or none, where too little is alike.

    Raises:
        ValueError: `count` is below 1, or the registry file has mistakes.
    """
    if count < 1:
        raise ValueError(f"count = {count}, must be 1 or more")
    names = _by_name()
    suggestions: dict[str, str] = {}  # model id -> its nearest spelling
    for close in difflib.get_close_matches(name.lower(), names, n=len(names)):
        spelling, model = names[close]
        suggestions.setdefault(model.id, spelling)  # most alike first, so the first one stays
    return list(suggestions.values())[:count]

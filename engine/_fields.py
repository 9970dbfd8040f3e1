"""Reading untrusted JSON into dataclasses, with all the problems of a file at once."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

# No configuration file of a model comes near; a larger one is not ours to parse.
_MAX_JSON_BYTES = 64 * 1024 * 1024


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is too large, no UTF-8 or no JSON.
    """
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ValueError(f"larger than {_MAX_JSON_BYTES} bytes")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """Parse a JSON file that holds one object.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is too large, no UTF-8, no JSON or no object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is needed, this is {type(value).__name__}")
    return value


def parse_dataclass(cls: type[T], data: Mapping[str, Any], problems: list[str], where: str = "") -> T | None:
    """An instance of a dataclass from a JSON object; keys without a field are ignored.

    Args:
        cls: Its fields are str, int, float, bool, other dataclasses, or tuples and dicts of these.
        data: The object.
        problems: Gets a sentence for each field that is missing or of another type.
        where: Prefix of the field names in those sentences.

    Returns:
        The instance, or None if there were problems.
    """
    hints, before, values = get_type_hints(cls), len(problems), {}
    for field in fields(cls):  # type: ignore[arg-type]  # T is a dataclass
        if field.name in data:
            values[field.name] = _convert(hints[field.name], data[field.name], problems, where + field.name)
        elif field.default is MISSING:
            problems.append(f"{where}{field.name} is missing")
    return cls(**values) if len(problems) == before else None


def _convert(hint: Any, value: Any, problems: list[str], where: str) -> Any:
    if isinstance(hint, UnionType):  # T | None
        (hint,) = (kind for kind in get_args(hint) if kind is not NoneType)
        if value is None:
            return None
    origin, arguments = get_origin(hint), get_args(hint)
    kind = dict if is_dataclass(hint) else origin or hint
    json_kinds: tuple[type, ...] = {float: (float, int), tuple: (list,)}.get(kind, (kind,))
    if not isinstance(value, json_kinds) or (isinstance(value, bool) and hint is not bool):
        problems.append(f"{where} is {value!r:.60}; {kind.__name__} expected")
        return None
    if is_dataclass(hint):
        return parse_dataclass(hint, value, problems, f"{where}.")  # type: ignore[arg-type]
    json_value: Any = value
    if origin is tuple:
        return tuple(_convert(arguments[0], item, problems, f"{where}[{i}]") for i, item in enumerate(json_value))
    if origin is dict:
        return {
            key: _convert(arguments[1], item, problems, f"{where}[{key!r:.80}]") for key, item in json_value.items()
        }
    if hint is not float:
        return json_value
    try:
        return float(json_value)
    except OverflowError:
        problems.append(f"{where} is {value!r:.60}; too large for a float")
        return None

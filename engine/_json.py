"""Untrusted files: regular ones of bounded size read whole, JSON into dataclasses, all the problems of a file at once.

And files of our own, which are written whole or not at all.
"""

import errno
import io
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

# No settings, vocabulary or tokenizer of a model comes near; a larger file is not ours to parse.
_MAX_BYTES = 64 * 1024 * 1024


def check_regular(path: Path) -> None:
    """Refuse what is no file of its own: a pipe waits for a writer, a device has no end.

    Raises:
        OSError: If there is nothing.
        ValueError: If it is no regular file, or a link to none.
    """
    try:
        status = path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP) and path.is_symlink():
            raise ValueError(f"a link that leads nowhere, to {os.readlink(path)!r}") from error
        raise
    _regular_size(status)


def has_entry(path: Path) -> bool:
    """Whether there is something of a name, if only a link that leads nowhere: what cannot be read is not absent."""
    return os.path.lexists(path)


def read_file(path: Path) -> bytes:
    """The content of a regular file that describes a model.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no regular file, or too large.
    """
    check_regular(path)  # before it is opened, which some devices take notice of
    with open(path, "rb", opener=_open_at_once) as file:
        size = _regular_size(os.fstat(file.fileno()))
        if size > _MAX_BYTES:
            raise ValueError(f"larger than {_MAX_BYTES} bytes")
        content = file.read(size + 1)
    if len(content) != size:
        raise ValueError(f"{len(content)} bytes can be read of {size}")  # it is being written, or none on a disk
    return content


def write_json(path: Path, value: Any) -> None:
    """Write a file in the place of what is there, whole or not at all, and the folder that it lies in.

    Raises:
        OSError: If it cannot be written.
    """
    work = path.with_name(f".{path.name}.{os.urandom(16).hex()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        work.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        work.replace(path)
    finally:
        work.unlink(missing_ok=True)


def _regular_size(status: os.stat_result) -> int:
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("no regular file")
    return status.st_size


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for a pipe's other end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_text(path: Path) -> str:
    """The text of a regular file in UTF-8, each line end a line feed.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no regular file, too large, or no UTF-8.
    """
    return io.TextIOWrapper(io.BytesIO(read_file(path)), encoding="utf-8").read()


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no regular file, too large, no UTF-8 or no JSON.
    """
    try:
        return json.loads(read_text(path))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """Parse a JSON file that holds one object.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no regular file, too large, no UTF-8, no JSON or no object.
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

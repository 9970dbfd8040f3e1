"""Encoded documents as a folder: two numpy arrays that are memory-mapped, and a JSON file that says what they are.

``ids.npy`` (int32 [tokens]) and ``offsets.npy`` (int64 [documents + 1]) are plain .npy files. They are written part by
part into a folder beside their place, which is then renamed, so that a folder is never half-written.
"""

import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossrank._errors import ArtifactError, InputError, join_problems
from crossrank._interrupts import not_thrown_in
from crossrank._json import check_regular, parse_dataclass, read_json_object

from .identity import TokenizerIdentity
from .tokens import Tokens

_FORMAT = 1
_ABOUT, _IDS, _OFFSETS = "encoded.json", "ids.npy", "offsets.npy"
_DTYPES = {_IDS: "<i4", _OFFSETS: "<i8"}


@dataclass(frozen=True, slots=True)
class _About:
    """All of encoded.json.

    Attributes:
        format: Version of the folder's format.
        crossrank: Version that wrote it.
        documents: How many there are.
        tokens: Their tokens in all.
        tokenizer: Whose ids these are.
    """

    format: int
    crossrank: str
    documents: int
    tokens: int
    tokenizer: TokenizerIdentity


def write_encoded(target: Path, parts: Iterable[Tokens], tokenizer: TokenizerIdentity) -> None:
    """Write documents as a folder, in memory no more than one part at a time.

    Args:
        target: Where; an older folder of encoded documents is replaced.
        parts: The documents, in their order.
        tokenizer: Whose ids these are.

    Raises:
        InputError: If something else is in its place, or it cannot be written.
    """
    target = target.resolve()  # behind a link, its target is replaced
    with _writing(target):
        _check_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        new = work / "new"  # not the folder itself, which only its owner may enter
        documents = tokens = 0
        with _writing(target):
            new.mkdir()
            for name in _DTYPES:
                (new / name).write_bytes(_header(name, 0))
            _append(new / _OFFSETS, np.zeros(1, np.int64))
        for part in parts:  # not under _writing: an error of the caller's texts is not one of ours
            with _writing(target):
                _append(new / _IDS, part.ids)
                _append(new / _OFFSETS, part.offsets[1:] + tokens)
            documents, tokens = documents + len(part.offsets) - 1, tokens + len(part.ids)
        from importlib.metadata import version  # seldom needed

        about = _About(_FORMAT, version("crossrank"), documents, tokens, tokenizer)
        with _writing(target):
            _finish(new / _IDS, _header(_IDS, tokens))
            _finish(new / _OFFSETS, _header(_OFFSETS, documents + 1))
            _finish(new / _ABOUT, (json.dumps(asdict(about), indent=2) + "\n").encode())
            _swap_in(new, target, work / "old")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def read_encoded(folder: Path) -> tuple[Tokens, TokenizerIdentity]:
    """Map the arrays of a folder, and check all but the ids themselves.

    Raises:
        InputError: If it is no folder of encoded documents.
        ArtifactError: If it is damaged or of a newer format; all problems at once.
    """
    path = folder / _ABOUT
    if not path.is_file():
        raise InputError(f"{folder} is no folder of encoded documents: it has no {_ABOUT}")
    try:
        data = read_json_object(path)
    except not_thrown_in(OSError, ValueError) as error:
        raise ArtifactError(f"{path}: {error}; encode the texts again") from error
    found = data.get("format")
    if isinstance(found, int) and found > _FORMAT:
        raise ArtifactError(
            f"{path}: format {found}, this crossrank reads up to {_FORMAT}: pip install --upgrade crossrank"
        )
    problems: list[str] = []
    about = parse_dataclass(_About, data, problems)
    if about is not None:
        ids = _map(folder / _IDS, about.tokens, problems)
        offsets = _map(folder / _OFFSETS, about.documents + 1, problems)
        if ids is not None and offsets is not None:
            # With both ends right, order alone keeps every offset inside the ids.
            if (
                len(offsets)
                and offsets[0] == 0
                and offsets[-1] == len(ids)
                and bool((offsets[1:] >= offsets[:-1]).all())
            ):
                return Tokens(ids, offsets), about.tokenizer
            problems.append(f"{_OFFSETS} does not rise from 0 to {len(ids)}, the number of ids")
    raise ArtifactError(join_problems(str(folder), problems) + "\nEncode the texts again, or copy the folder again.")


def _map(path: Path, count: int, problems: list[str]) -> NDArray[Any] | None:
    name, dtype = path.name, np.dtype(_DTYPES[path.name])
    try:
        check_regular(path)
        mapped = np.lib.format.open_memmap(path, mode="r")  # never unpickles; a file that is cut off is a ValueError
    except not_thrown_in(OSError, ValueError) as error:
        problems.append(f"{name} is missing or cut off: {error}")
        return None
    if mapped.dtype != dtype or mapped.shape != (count,):
        problems.append(f"{name} is {mapped.dtype} {list(mapped.shape)}, {_ABOUT} says {dtype} [{count}]")
        return None
    size, expected = path.stat().st_size, len(_header(name, count)) + mapped.nbytes
    if size != expected:
        problems.append(f"{name} has {size} bytes, {expected} are expected")
        return None
    return np.asarray(mapped)  # a plain view: numpy's memmap class makes each slice dear


def _check_replaceable(target: Path) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / _ABOUT).is_file():
        raise InputError(f"{target} exists and is no folder of encoded documents: choose another folder")
    others = sorted({path.name for path in target.iterdir()} - {_ABOUT, *_DTYPES})
    if others:
        raise InputError(
            f"{target} holds what is no part of encoded documents and would be lost: {', '.join(others)}; move it away "
            f"or choose another folder"
        )


def _header(name: str, count: int) -> bytes:
    """The head of a .npy file; numpy pads it, so that it is as long for every count."""
    buffer = io.BytesIO()
    description = {"descr": _DTYPES[name], "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


def _append(path: Path, values: NDArray[Any]) -> None:
    with path.open("ab") as file:
        file.write(np.ascontiguousarray(values, _DTYPES[path.name]).data)


def _finish(path: Path, head: bytes) -> None:
    """Write the beginning of a file and sync all of it to disk."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(head)
        file.flush()
        os.fsync(file.fileno())


def _swap_in(new: Path, target: Path, old: Path) -> None:
    """Rename ``new`` to ``target``; what was there comes back if that fails."""
    try:
        if target.exists():
            target.rename(old)
        new.rename(target)
    except BaseException:  # an interrupt too: `old` is about to be removed
        if old.exists() and not target.exists():
            old.rename(target)
        raise


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except not_thrown_in(OSError) as error:
        raise InputError(
            f"{target} cannot be written: {error.strerror or error}; make room or choose another folder"
        ) from error

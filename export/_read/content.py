"""The fingerprint of a checkpoint folder's content, taken fast enough for every load.

A file is known by a hash of its content, since times and sizes do not tell: retrained weights have the size of the old
ones, and reproducible images give every file one time. Hashing takes 0.1 s for 130 MB and 2 s for 2.2 GB, so:

- files of up to 256 MB are hashed whole;
- larger ones by samples, in 0.05 s: of safetensors the header, small tensors whole and 16 blocks of every other one; of
  anything else both ends, where a PyTorch file has the checksums of its tensors, and 4,096 blocks. Training changes
  whole tensors; for an edit of a few rows the file's time counts too;
- a file whose device, inode, size, time and time of change are those that its hash was kept for is not read again. No
  program sets the time of change.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from crossrank._artifact.held import Stamp, stamp
from crossrank._artifact.settings import PYTORCH, SAFETENSORS, has_weights, module_folders
from crossrank._errors import ModelError
from crossrank._interrupts import not_thrown_in
from crossrank._json import write_json

WHOLE_BYTES = 256 * 1024 * 1024
_BLOCK_BYTES = 4096
_SMALL_BYTES = 64 * 1024
_ENDS_BYTES = 1024 * 1024
_TENSOR_BLOCKS = 16
_FILE_BLOCKS = 4096
_HEADER_BYTES = 100 * 1024 * 1024  # safetensors' own limit
# What an export may read.
_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".safetensors", ".bin")
# A file that changed less long ago may change again without its times showing it.
_SETTLED_S = 2.0


def stamp_files(folder: Path) -> dict[str, Stamp]:
    """The files of a folder that an export may read, by their path inside it.

    ONNX files are none, nor PyTorch's weights beside the same model's in safetensors.
    """
    try:
        places = {folder, *module_folders(folder)}
    except ModelError:  # which reading it will say
        places = {folder}
    stamps = {}
    for place in filter(Path.is_dir, places):
        found = {path.name: path for path in place.iterdir() if path.suffix in _SUFFIXES and _counts(path)}
        # Refused when the checkpoint is read, so they must not go by unseen.
        templates = (place / "additional_chat_templates").glob("*.jinja")
        found |= {f"{path.parent.name}/{path.name}": path for path in templates if _counts(path)}
        unread = has_weights(place, [SAFETENSORS])
        stem = PYTORCH.removesuffix(".bin")
        for name, path in found.items():
            if not (unread and name.startswith(stem) and name.endswith(".bin")):
                stamps[path.relative_to(folder).as_posix()] = stamp(path, follow=path.exists())
    return dict(sorted(stamps.items()))


def hash_files(
    folder: Path, stamps: Mapping[str, Stamp], known: Mapping[str, tuple[Stamp, str]], *, whole_bytes: int = WHOLE_BYTES
) -> dict[str, str]:
    """A hash of each file's content.

    Args:
        folder: Where the files are.
        stamps: From `stamp_files`.
        known: Hashes that were kept, with the stamps that they are good for.
        whole_bytes: Files of more bytes are sampled.
    """
    return {
        name: known[name][1] if name in known and known[name][0] == stamp else _hash(folder / name, whole_bytes)
        for name, stamp in stamps.items()
    }


def settled(stamps: Mapping[str, Stamp], now: float) -> bool:
    """Whether hashes may be kept for these stamps: no file changed in the last seconds before ``now``, in s."""
    return all(max(stamp[3:]) < (now - _SETTLED_S) * 1e9 for stamp in stamps.values())


def read_known(record: Path) -> dict[str, tuple[Stamp, str]]:
    """The hashes that `write_known` kept, none if they cannot be read."""
    try:
        files = json.loads(record.read_text(encoding="utf-8"))["files"]
        return {str(name): (tuple(map(int, stamp)), str(digest)) for name, (stamp, digest) in files.items()}
    except not_thrown_in(OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_known(record: Path, folder: Path, key: str, stamps: Mapping[str, Stamp], hashes: Mapping[str, str]) -> None:
    """Keep the hashes of a folder's files, and the name of its artifact in the cache; where it can be written.

    Args:
        record: The file to write.
        folder: The folder.
        key: The artifact's name.
        stamps: From `stamp_files`; not kept where a file changed just now.
        hashes: From `hash_files`.
    """
    keep = stamps if settled(stamps, time.time()) else {}
    files = {name: [stamp, hashes[name]] for name, stamp in keep.items()}
    try:
        write_json(record, {"folder": str(folder), "key": key, "files": files})
    except not_thrown_in(OSError):  # a cache that others filled, to be read only
        return


def _counts(path: Path) -> bool:
    return path.is_file() or (path.is_symlink() and not path.exists())  # a link that leads nowhere is refused then


def _hash(path: Path, whole_bytes: int) -> str:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= whole_bytes:
                return hashlib.file_digest(file, "sha256").hexdigest()
            digest = hashlib.sha256(f"{size} {os.fstat(file.fileno()).st_mtime_ns}".encode())
            for start, end in _samples(path, size):
                file.seek(start)
                digest.update(file.read(end - start))
            return f"sampled-{digest.hexdigest()}"
    except not_thrown_in(OSError) as error:  # which reading it will say
        return f"unreadable-{error.errno}"


def _samples(path: Path, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a large file that are hashed, as (start, end)."""
    tensors = _tensors(path, size)
    if tensors is None:
        yield 0, min(size, _ENDS_BYTES)
        yield max(0, size - _ENDS_BYTES), size
        yield from _blocks(0, size, _FILE_BLOCKS)
        return
    for start, end in tensors:
        if end - start <= _SMALL_BYTES or start == 0:
            yield start, end
        else:
            yield from _blocks(start, end, _TENSOR_BLOCKS)


def _blocks(start: int, end: int, count: int) -> Iterator[tuple[int, int]]:
    """Blocks spread evenly over a part of a file, at both of its ends too."""
    for i in range(count):
        first = start + max(0, end - start - _BLOCK_BYTES) * i // (count - 1)
        yield first, first + _BLOCK_BYTES


def _tensors(path: Path, size: int) -> list[tuple[int, int]] | None:
    """The header and the tensors of a safetensors file, as (start, end); None if it is none."""
    if path.suffix != ".safetensors":
        return None
    try:
        with path.open("rb") as file:
            begin = 8 + int.from_bytes(file.read(8), "little")
            if begin > min(size, _HEADER_BYTES):
                return None
            header = json.loads(file.read(begin - 8))
        parts = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
        spans = sorted((begin + int(first), begin + int(last)) for first, last in parts)
    except not_thrown_in(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if any(not begin <= first <= last <= size for first, last in spans):
        return None
    return [(0, begin), *spans]

"""The cache of TensorRT's engines, of which a stale or foreign one is never used.

An engine is for one GPU model, one version of everything, one graph and one set of options, and onnxruntime checks
little of that: it takes the file that it finds. So engines lie in ``tensorrt/<key>/`` of the artifact, the key is all
of the above, and ``engine.json`` beside them, written last, says the key again and the sha256 of each file. A folder
where that is not so is removed. New engines are built in a folder beside it, which takes its name once it is whole,
by one process at a time.

Where the artifact cannot be written, the user's cache takes its place.
"""

import hashlib
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from crossrank._artifact.locate import cache_root
from crossrank._artifact.manifest import hash_file
from crossrank._errors import InputError
from crossrank._interrupts import not_thrown_in
from crossrank._json import read_json_object
from crossrank._machine.advice import TensorrtFacts
from crossrank._printable import printable

logger = logging.getLogger(__name__)

RECORD_NAME = "engine.json"
# What a killed build left is removed when it is older than any build takes.
_ABANDONED_S = 3600.0


@dataclass(frozen=True, slots=True)
class EngineKey:
    """All that an engine depends on.

    Attributes:
        gpu: The GPU's name.
        capability: Its compute capability, such as "8.9".
        driver: The driver's version.
        tensorrt: TensorRT's version.
        onnxruntime: onnxruntime's version.
        tf32: As in `TensorrtFacts`.
        graph: sha256 of the ONNX file, and of the files beside it that hold its weights, or of a foreign graph may do.
        options: Of the provider, those that an engine depends on.
    """

    gpu: str
    capability: str
    driver: str
    tensorrt: str
    onnxruntime: str
    tf32: str
    graph: str
    options: dict[str, str]

    @property
    def folder(self) -> str:
        """The name of the engine's folder."""
        return _digest(asdict(self))

    @property
    def timing_folder(self) -> str:
        """The name of the timing cache's folder, which all engines of a machine share."""
        return "timing-" + _digest([self.gpu, self.capability, self.driver, self.tensorrt, self.tf32])


def engine_key(facts: TensorrtFacts, index: int, graph: str, options: dict[str, str]) -> EngineKey:
    """The key of an engine on this machine.

    Args:
        facts: Of the machine, without a problem.
        index: Of the GPU.
        graph: As `GraphFiles.hash` gives it.
        options: As `engine_options` gives them.
    """
    gpu, machine = facts.gpu(index), facts.machine
    return EngineKey(
        gpu.name,
        _dotted(gpu.capability),
        _dotted(machine.driver or ()),
        _dotted(facts.tensorrt or ()),
        machine.onnxruntime,
        facts.tf32,
        graph,
        options,
    )


def cache_places(artifact: Path, cache_folder: Path | None = None) -> list[Path]:
    """Where engines may lie, the best first: in the artifact, and in the user's cache."""
    places = [artifact / "tensorrt"]
    try:
        places.append(cache_root(cache_folder) / "tensorrt")
    except InputError:  # no home folder: the artifact's own place is left
        logger.debug("no user's cache for engines")
    return places


def find_engines(places: Sequence[Path], key: EngineKey) -> Iterator[Path]:
    """The folders of engines with exactly this key, whole and unchanged. One that is not so is removed."""
    for place in places:
        folder = place / key.folder
        if not folder.exists():
            continue
        if _is_whole(folder, key):
            yield folder
            continue
        logger.warning(
            "%s: the TensorRT engine is damaged or of another machine, and is built again", printable(folder)
        )
        remove_folder(folder)


def remove_folder(folder: Path) -> None:
    """Remove an engine or a timing cache that is of no use; what cannot be removed stays, and stays unused."""
    shutil.rmtree(folder, ignore_errors=True)


def writable_place(places: Sequence[Path]) -> Path:
    """The first of the places that can be written.

    Raises:
        InputError: If there is none.
    """
    problems = []
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                return place
        except not_thrown_in(OSError) as error:
            problems.append(f"{place} ({error.strerror or error})")
    raise InputError(
        f"TensorRT engines cannot be kept in {' or '.join(problems)}: make one of them writable, or set CROSSRANK_HOME"
    )


@contextmanager
def build_lock(place: Path, key: EngineKey) -> Iterator[None]:
    """Hold the engines of a place and a machine: side by side, builds disturb each other's timings and their cache.

    The system drops the lock of a process that ends, and its file, hidden and empty, stays. Where there are no locks,
    as on some network drives, two processes may build the same engine, and one is kept.
    """
    with (place / f".{key.timing_folder}.lock").open("a") as file:
        if sys.platform == "win32":  # no fcntl
            yield
            return
        import fcntl

        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)  # a child that was forked meanwhile has the file open too


@contextmanager
def new_engine(place: Path, key: EngineKey) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A folder to build an engine in, and what puts it in its place when it is built; what is left over is removed.

    Args:
        place: Of `writable_place`.
        key: Of the engine.
    """
    for left in place.glob(f".{key.folder}-*"):
        if time.time() - left.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{key.folder}-", dir=place))

    def keep() -> None:
        files = {file.name: hash_file(file) for file in sorted(work.iterdir()) if file.is_file()}
        record = {"key": asdict(key), "files": files}
        (work / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        work.chmod(0o755)  # mkdtemp's is for its user alone
        try:
            work.rename(place / key.folder)
        except not_thrown_in(OSError) as error:  # another process was faster; its engine is as good
            logger.info("%s is there already: %s", printable(place / key.folder), error)

    try:
        yield work, keep
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _is_whole(folder: Path, key: EngineKey) -> bool:
    try:
        record = read_json_object(folder / RECORD_NAME)
        files = {file.name for file in folder.iterdir()} - {RECORD_NAME}
        return (
            record.get("key") == asdict(key)
            and any(name.endswith(".engine") for name in files)
            and record.get("files") == {name: hash_file(folder / name) for name in files}
        )
    except not_thrown_in(OSError, ValueError):
        return False


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))

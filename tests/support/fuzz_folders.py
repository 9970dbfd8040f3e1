"""Damages model folders at random and reads them: only our own errors may come out, soon, and in little memory.

    python -m tests.support.fuzz_folders WORK_FOLDER --kind checkpoint --count 10000 --seed 1

A "checkpoint" is read as an export reads it; of an artifact the "manifest" alone, or the whole "model", which then
scores texts. Graphs are left as they are there: what onnxruntime makes of a damaged one is not ours.

Prints one line of JSON: how many were read, how many refused and by which error, the slowest, the growth
in memory, and the failures with the number that repeats each.
"""

import argparse
import contextlib
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crossrank import CrossEncoder, CrossrankError
from crossrank._artifact.manifest import read_manifest
from crossrank._json import read_json
from crossrank.export._architectures.checkpoint import read_checkpoint

# Far above what a tiny folder takes, far below what a number in a damaged file can ask for.
MEMORY_BYTES = 1 << 30
SECONDS = 20

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 10**6, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64, 10**400, 1e308, -0.5, 0.5,
    "", "a", "../x",
    "/etc/passwd", "\ud800", "\x00", "[CLS]", "bert", "roberta", "float16", [], {}, [[]], [1], ["a", 1], {"a": {}},
    {"content": 3}, [["a", "b"], 3], {"Regex": "(a*)*$"}, {"Regex": "("}, {"String": ""}, "9" * 5000,
    float("inf"), float("nan"),
)  # fmt: skip
_BYTES = (
    b"\x00",
    b"\xff",
    b"{",
    b"}",
    b"[",
    b'"',
    b":",
    b",",
    b"\\u",
    b"9" * 40,
    b"\xed\xa0\x80",
    b"\n\n",
    b"-",
    b"1e9",
)


def _damage_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat or insert, near the beginning more often than not, since headers lie there."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        end = len(data) if rng.random() < 0.4 else min(len(data), 400)
        at = rng.randrange(end + 1)
        match rng.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at:]
            case 2:
                del data[at : at + rng.randrange(1, 64)]
            case 3:
                data[at:at] = rng.choice(_BYTES)
            case 4:
                data[at:at] = data[at : at + rng.randrange(1, 256)]
            case _:
                data[at : at + 8] = rng.randbytes(8)
    return bytes(data)


def _damage_json(value: Any, rng: random.Random) -> Any:
    """Replace, remove, add or move something at a random depth."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        match rng.randrange(8):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return value | {rng.choice(("a", "", key + "x", "format", "__proto__")): rng.choice(_VALUES)}
            case 2:
                return value | {key: value[rng.choice(list(value))]}
            case 3 | 4:
                return value | {key: rng.choice(_VALUES)}
            case _:
                return value | {key: _damage_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        match rng.randrange(4):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value * 2
            case _:
                return [*value[:at], _damage_json(value[at], rng), *value[at + 1 :]]
    return rng.choice(_VALUES)


def damage(folder: Path, rng: random.Random) -> None:
    """One to three injuries to the files of a folder."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".onnx")
        if not files:
            return
        path = rng.choice(files)
        kind = rng.random()
        if kind < 0.04:
            path.unlink()
        elif kind < 0.06:
            path.unlink()
            path.mkdir()
        elif kind < 0.09:
            path.write_bytes(rng.choice(files).read_bytes() if rng.random() < 0.7 else b"")
        elif kind < 0.12:
            path.unlink()
            path.symlink_to(rng.choice(("/dev/null", "/dev/zero", "absent", "/etc/passwd", path.name)))
        elif kind < 0.13:
            path.unlink()
            os.mkfifo(path)
        elif path.suffix == ".json" and kind < 0.8:
            value = json.loads(path.read_text(encoding="utf-8", errors="replace") or "null")
            for _ in range(rng.choice((1, 1, 2, 6))):
                value = _damage_json(value, rng)
            path.write_text(json.dumps(value), encoding="utf-8")
        else:
            path.write_bytes(_damage_bytes(path.read_bytes(), rng))


def forge_sizes(folder: Path) -> None:
    """Let an artifact's manifest say what its files are now, or their sizes alone would give the damage away."""
    path = folder / "crossrank.json"
    manifest = read_json(path)
    for name, record in manifest["files"].items():
        record["size_bytes"] = (folder / name).stat().st_size
    path.write_text(json.dumps(manifest), encoding="utf-8")


def _read_checkpoint(folder: Path) -> None:
    read_checkpoint(folder, max_length=None, relevant_label=None)


def _score(folder: Path) -> None:
    model = CrossEncoder(folder, device="cpu", threads=1, activation_fn="identity")
    pairs = [("a", "b"), ("the sea", ""), ("why ☃ is\u0301 it", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac " * 40)]
    model.predict(pairs)
    model.encode(["the sea"])
    str(model.info())
    dir(model.config)


READERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": _read_checkpoint,
    "manifest": read_manifest,
    "model": _score,
}


class _TooSlow(BaseException):
    """No Exception, so that nothing takes it for a damaged file."""


def _too_slow(*_: object) -> None:
    raise _TooSlow(f"longer than {SECONDS} s")


def fuzz(bases: list[Path], work: Path, read: Callable[[Path], object], count: int, seed: int) -> dict[str, Any]:
    """Damage and read ``count`` folders.

    Args:
        bases: Good folders to begin with, taken in turn.
        work: An empty folder to work in.
        read: What reads a folder.
        count: How many.
        seed: With the number of a folder it says what is done to it.
    """
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    slowest = 0.0
    folder = work / "model"
    signal.signal(signal.SIGALRM, _too_slow)
    for number in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(bases[number % len(bases)], folder, symlinks=True)
        with contextlib.suppress(ValueError, OSError):  # an injury to what an earlier one already ruined
            damage(folder, random.Random(f"{seed} {number}"))
        if read is _score:
            with contextlib.suppress(ValueError, OSError, LookupError, TypeError, AttributeError):
                forge_sizes(folder)
        begin = time.perf_counter()
        signal.alarm(SECONDS)
        try:
            read(folder)
            outcomes["read"] += 1
        except CrossrankError as error:
            outcomes[type(error).__name__] += 1
            if "MemoryError" in str(error) or len(str(error)) > 100_000:
                failures.append(f"{number}: {error!s:.200}")
        except BaseException as error:  # a panic of a library in Rust is no Exception
            at = traceback.extract_tb(error.__traceback__)[-1]
            failures.append(f"{number}: {type(error).__name__} at {at.filename}:{at.lineno}: {error!s:.200}")
        signal.alarm(0)
        slowest = max(slowest, time.perf_counter() - begin)
    return {"folders": count, "outcomes": dict(outcomes), "slowest_s": slowest, "failures": failures}


def main() -> None:
    """Run `fuzz` within bounded memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="holds the good folders in bases/")
    parser.add_argument("--kind", choices=list(READERS), default="checkpoint")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    bases = sorted(path for path in (options.work / "bases").iterdir() if path.is_dir())
    logging.disable(logging.WARNING)  # what a config.json left out is not news here
    for base in bases:
        READERS[options.kind](base)  # loads all the libraries, before memory is counted
    status = Path("/proc/self/statm")
    if status.exists():
        used = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = fuzz(bases, options.work, READERS[options.kind], options.count, options.seed)
    report["growth_mb"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    print(json.dumps(report))
    sys.exit(bool(report["failures"]))


if __name__ == "__main__":
    main()

"""Damages model folders at random and reads them: only our own errors may come out, soon, and in little memory.

    python -m tests.support.fuzz_folders WORK_FOLDER --kind checkpoint --count 10000 --seed 1

A "checkpoint" is read as an export reads it; of an artifact the "manifest" alone, or the whole "model", which then
scores texts. Graphs are left as they are there: what onnxruntime makes of a damaged one is not ours. With --sweep each
setting has each odd value in turn, where a count of them is damaged at random.

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
from collections.abc import Callable, Iterator
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
# Of the files of settings, what is read there besides what they hold already.
_SETTINGS: dict[str, tuple[str, ...]] = {
    "config.json": (
        *("architectures", "hidden_act", "id2label", "label2id", "max_position_embeddings", "model_type", "num_labels"),
        *("pad_token_id", "sbert_ce_default_activation_function", "sentence_transformers", "tokenizer_class"),
    ),
    "tokenizer_config.json": (
        *("add_prefix_space", "added_tokens_decoder", "additional_special_tokens", "backend", "chat_template"),
        *("cls_token", "do_lower_case", "extra_special_tokens", "mask_token", "max_len", "model_input_names"),
        *("model_max_length", "split_special_tokens", "strip_accents", "tokenize_chinese_chars", "tokenizer_class"),
        "truncation_side",
    ),
    "special_tokens_map.json": ("additional_special_tokens", "cls_token", "mask_token"),
    "added_tokens.json": ("[NEW]",),
    "config_sentence_transformers.json": ("activation_fn", "default_prompt_name", "prompts"),
    "sentence_bert_config.json": (
        *("do_lower_case", "max_seq_length", "modality_config", "processing_kwargs", "transformer_task"),
    ),
    "adapter_config.json": (
        *("alpha_pattern", "base_model_name_or_path", "init_lora_weights", "lora_alpha", "peft_type", "r"),
        *("use_dora", "use_rslora"),
    ),
}
_ODD: tuple[Any, ...] = (None, [], {}, [{"a": 1}], {"a": [1]}, 10**400, 1e39, -1, "", float("nan"))
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


def odd_settings(folder: Path) -> Iterator[tuple[str, Path, str]]:
    """Every setting of a folder with every odd value: what it is, the file, and the text to write there."""
    for name, keys in _SETTINGS.items():
        path = folder / name
        if name == "adapter_config.json" and not path.exists():
            continue  # an adapter's tensors are missing then, whatever it says
        settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for key in sorted({*settings, *keys}):
            for value in _ODD:
                yield f"{name} {key} {value!r:.20}", path, json.dumps(settings | {key: value})


def sweep(bases: list[Path], read: Callable[[Path], object]) -> dict[str, Any]:
    """Read folders with `odd_settings`, one at a time."""
    report = _Report()
    for base in bases:
        for what, path, text in list(odd_settings(base)):
            before = path.read_bytes() if path.exists() else None
            path.write_text(text, encoding="utf-8")
            report.read(read, base, f"{base.name} {what}")
            if before is None:
                path.unlink()
            else:
                path.write_bytes(before)
    return report.summary()


class _TooSlow(BaseException):
    """No Exception, so that nothing takes it for a damaged file."""


def _too_slow(*_: object) -> None:
    raise _TooSlow(f"longer than {SECONDS} s")


class _Report:
    """What became of folders that were read."""

    def __init__(self) -> None:
        self._outcomes: Counter[str] = Counter()
        self._failures: list[str] = []
        self._slowest_s = 0.0
        signal.signal(signal.SIGALRM, _too_slow)

    def read(self, read: Callable[[Path], object], folder: Path, what: str) -> None:
        begin = time.perf_counter()
        signal.alarm(SECONDS)
        try:
            read(folder)
            self._outcomes["read"] += 1
        except CrossrankError as error:
            self._outcomes[type(error).__name__] += 1
            if "MemoryError" in str(error) or len(str(error)) > 100_000:
                self._failures.append(f"{what}: {error!s:.200}")
        except BaseException as error:  # a panic of a library in Rust is no Exception
            at = traceback.extract_tb(error.__traceback__)[-1]
            self._failures.append(f"{what}: {type(error).__name__} at {at.filename}:{at.lineno}: {error!s:.200}")
        signal.alarm(0)
        self._slowest_s = max(self._slowest_s, time.perf_counter() - begin)

    def summary(self) -> dict[str, Any]:
        return {
            "folders": self._outcomes.total() + len(self._failures),
            "outcomes": dict(self._outcomes),
            "slowest_s": self._slowest_s,
            "failures": self._failures,
        }


def fuzz(bases: list[Path], work: Path, read: Callable[[Path], object], count: int, seed: int) -> dict[str, Any]:
    """Damage and read ``count`` folders.

    Args:
        bases: Good folders to begin with, taken in turn.
        work: An empty folder to work in.
        read: What reads a folder.
        count: How many.
        seed: With the number of a folder it says what is done to it.
    """
    report, folder = _Report(), work / "model"
    for number in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(bases[number % len(bases)], folder, symlinks=True)
        with contextlib.suppress(ValueError, OSError):  # an injury to what an earlier one already ruined
            damage(folder, random.Random(f"{seed} {number}"))
        if read is _score:
            with contextlib.suppress(ValueError, OSError, LookupError, TypeError, AttributeError):
                forge_sizes(folder)
        report.read(read, folder, str(number))
    return report.summary()


def main() -> None:
    """Run `fuzz` within bounded memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="holds the good folders in bases/")
    parser.add_argument("--kind", choices=list(READERS), default="checkpoint")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sweep", action="store_true", help="each setting with each odd value, in bases/")
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
    read = READERS[options.kind]
    report = sweep(bases, read) if options.sweep else fuzz(bases, options.work, read, options.count, options.seed)
    report["growth_mb"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    print(json.dumps(report))
    sys.exit(bool(report["failures"]))


if __name__ == "__main__":
    main()

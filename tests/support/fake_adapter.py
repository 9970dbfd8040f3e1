"""An adapter for tests of the benchmarks' workers: scores are the documents' lengths; runs in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.engines.registry import Engine

print("printed while importing")


def convert(source: Path, output: Path, *, fails: bool = False) -> None:
    """Write a folder that says which process made it."""
    output.mkdir()
    (output / "made-by.txt").write_text(f"{source.name} {os.getpid()}", encoding="utf-8")
    if fails:
        raise ValueError("no tool for that")


def open(folder: Path, threads: int, *, behaviour: str = "") -> Engine:
    """Open an engine that misbehaves in the named way."""
    if behaviour == "cannot be opened":
        raise ModuleNotFoundError("No module named 'peer'")
    if behaviour == "dies while opening":
        print("the last words", file=sys.stderr)
        os._exit(3)

    def score(query: str, documents: list[str]) -> list[int]:
        if query == "print":
            print('{"scores": [666]}')
            subprocess.run(["sh", "-c", "echo from another program; cat"], check=True)
            sys.stderr.write("x" * 1_000_000)
        if query == "fail":
            raise ValueError("no scores today")
        if query == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if query == "lose one":
            return [len(document) for document in documents[1:]]
        time.sleep(0.05)
        return [len(document) for document in documents]

    def prepare(query: str, documents: list[str]) -> list[str]:
        time.sleep(0.2)
        return documents

    def facts() -> dict[str, str]:
        time.sleep(1 if behaviour == "describes itself slowly" else 0)
        return {
            "folder": folder.name,
            "threads": str(threads),
            "pools": " ".join(os.environ[f"{name}_NUM_THREADS"] for name in ("RAYON", "OMP", "MKL")),
            "bytecode": "thrown away" if sys.dont_write_bytecode else "kept",
            "made_by": (folder / "made-by.txt").read_text("utf-8") if (folder / "made-by.txt").exists() else "",
        }

    return Engine(
        score,
        facts,
        ("numpy",),
        prepare=prepare,
        read=lambda result: [number / 2 for number in result],
    )

"""Folders that engines open, made of a checkpoint once and found again."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from benchmarks import ROOT

from .environments import ENVIRONMENTS, Environments
from .process import Process
from .registry import CONVERSIONS, EngineUnavailable, WorkerError

SERVE = "benchmarks.engines.serve"  # the module of the processes
_STAMP = "made-from.json"


def model_folder(
    name: str, checkpoint: Path, scratch: Path, *, threads: int = 1, environments: Environments = ENVIRONMENTS
) -> Path:
    """The folder of a model in a form: one of `CONVERSIONS` in the folder ``scratch``, or for "" the checkpoint itself.

    What is not there, or is of something else than now, is made; EngineUnavailable says why it cannot be.
    """
    if not name:
        return checkpoint
    conversion, target = CONVERSIONS[name], scratch / name
    source = model_folder(conversion.source, checkpoint, scratch, threads=threads, environments=environments)
    stamp = json.dumps(_made_from(name, checkpoint, environments), indent=2)
    if (target / _STAMP).exists() and (target / _STAMP).read_text(encoding="utf-8") == stamp:
        return target
    partial = scratch / f".{name}.{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        with Process(SERVE, conversion.environment, threads=threads, environments=environments) as process:
            places = {"source": str(source.resolve()), "output": str(partial.resolve())}
            process.ask("convert", {"adapter": conversion.adapter, "options": conversion.options, **places})
        (partial / _STAMP).write_text(stamp, encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except EngineUnavailable:
        raise  # its environment is absent
    except WorkerError as error:
        raise EngineUnavailable(f"{name} cannot be made of {checkpoint.name}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _made_from(name: str, checkpoint: Path, environments: Environments) -> dict[str, object]:
    """All that a conversion depends on: the checkpoint's files, how it is made, and the tools' versions."""
    conversion = CONVERSIONS[name]
    files = sorted(path for path in checkpoint.iterdir() if path.is_file())
    if conversion.environment:
        tools = environments.requirements_of(conversion.environment)
    else:  # what is measured is what this checkout exports; what runs it, and opens it, is not in the folder
        sources = sorted((ROOT / "export").rglob("*.py"))
        tools = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return {
        "checkpoint": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files],
        "conversion": asdict(conversion),
        "source": _made_from(conversion.source, checkpoint, environments) if conversion.source else None,
        "tools": tools,
    }

"""The parts of a GPU run: what they are called, what they take, and whether a result of theirs stands."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.inputs.files import write_whole
from benchmarks.inputs.workloads import TREC_DL19
from benchmarks.reporting.machine import describe_machine, git_commit
from benchmarks.reporting.result import shorten_reason
from crossrank import InputError
from crossrank._machine.gpu import read_gpu_facts

from .machine import measure_facts
from .models import MODELS, QUALITY_MODEL, Place, trained_checkpoint
from .work import Keep

_CODE = ("engine", "export", "models", "benchmarks")
_MODEL = "model-"
_WITHOUT_GRAPHS = ("facts", "kernels")  # capture none anyhow
_ESTIMATES_S = {"small": 95.0, "base": 95.0, "large": 140.0}


@dataclass(frozen=True, slots=True)
class Part:
    """What runs in one go, and leaves one JSON file.

    Attributes:
        name: Of the file too.
        estimate_s: A guess of its time on an H100.
        measure: Does it.
    """

    name: str
    estimate_s: float
    measure: Callable[[Place, Keep], None]


def all_parts() -> list[Part]:
    """The parts by what is wanted first where time is short."""
    models = [Part(f"{_MODEL}{key}", _ESTIMATES_S[shape.size], partial(_model, key)) for key, shape in MODELS.items()]
    return [
        Part("facts", 25, measure_facts),
        Part("tuning", 150, _tuning),
        *models[:2],
        Part("kernels", 120, _kernels),
        Part("quality", 60, _quality),
        *models[2:],
    ]


# Each of them is imported only where it runs: not every machine has what all of them need.


def _model(key: str, place: Place, keep: Keep) -> None:
    from .figures import measure_model

    measure_model(key, place, keep)


def _quality(place: Place, keep: Keep) -> None:
    from .quality import measure_quality

    measure_quality(place, keep)


def _kernels(place: Place, keep: Keep) -> None:
    from benchmarks.measure.kernels import measure_kernels

    measure_kernels(place, keep)


def _tuning(place: Place, keep: Keep) -> None:
    from .tuning import measure_tuning

    measure_tuning(place, keep)


def choose_parts(names: Sequence[str] | None) -> list[Part]:
    """The parts of these names, in the order of `all_parts`; None for all.

    Raises:
        InputError: For a name that none has.
    """
    parts = all_parts()
    known = [part.name for part in parts]
    wrong = [name for name in names or () if name not in known]
    if wrong:
        raise InputError(f"--parts {' '.join(wrong)}: known are {', '.join(known)}")
    return [part for part in parts if names is None or part.name in names]


def missing_data(part: Part, place: Place) -> str | None:
    """Why a part cannot run with the test data at hand, None if it can."""
    if part.name != "quality":
        return None
    if not (place.test_data / "data" / TREC_DL19).is_dir():
        return f"no judged queries {TREC_DL19} in the test data; set CROSSRANK_TEST_DATA"
    if not place.rehearse and trained_checkpoint(QUALITY_MODEL, place.test_data) is None:
        return "no trained checkpoint in the test data; set CROSSRANK_TEST_DATA"
    return None


def identify(part: Part, place: Place) -> dict[str, object]:
    """All that a result must have been taken with to stand for a part: its code, its weights and its GPU."""
    gpus = read_gpu_facts().gpus
    model = QUALITY_MODEL if part.name == "quality" else part.name.removeprefix(_MODEL)
    trained = trained_checkpoint(model, place.test_data)
    return {
        "part": part.name,
        "rehearsal": place.rehearse,
        "code": code_hash(ROOT),
        "gpu": "CPU" if place.rehearse else gpus[place.device.index].name if gpus else "unknown",
        "weights": "published" if trained and not place.rehearse else "random, seed 0",
        "graphs": place.graphs or part.name in _WITHOUT_GRAPHS,
    }


def code_hash(root: Path) -> str:
    """A hash of the code of a checkout, which may have come without its history."""
    files = sorted(
        path
        for folder in _CODE
        for path in (root / folder).rglob("*")
        if path.suffix in (".py", ".toml", ".jsonl") and "results" not in path.parts
    )
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def is_done(file: Path, identity: Mapping[str, object], *, keep: bool) -> bool:
    """Whether a part's result is there, complete, and of what runs now.

    One with CUDA graphs stands for one without too.

    Args:
        file: The result.
        identity: As `identify` gives it.
        keep: Take results of other code too.
    """
    content = read_part(file)
    if content is None or not content.get("complete"):
        return False
    found = content["identity"]
    ignored = [*(["code"] if keep else []), *(["graphs"] if found.get("graphs") else [])]
    return all(found.get(name) == value for name, value in identity.items() if name not in ignored)


def read_part(file: Path) -> dict[str, Any] | None:
    """A part's result, complete or not; None if there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("benchmark") == "gpu" else None


def run_part(part: Part, place: Place, file: Path, *, command: str, commit: str | None) -> None:
    """Run a part here. Its file holds what was done, section by section, also where it is stopped or fails.

    Args:
        part: The part.
        place: Where.
        file: The result.
        command: What a reader would type.
        commit: Of the code, where the checkout has no history.

    Raises:
        InputError: If the file is a measured result and this is a rehearsal.
    """
    before = read_part(file)
    if place.rehearse and before is not None and not before["rehearsal"]:
        raise InputError(f"{file.name} was measured on a GPU, a rehearsal would replace it: choose another --output")
    known = git_commit(ROOT)
    start = time.monotonic()
    sections: dict[str, object] = {}
    result: dict[str, object] = {
        "benchmark": "gpu",
        "rehearsal": place.rehearse,
        "complete": False,
        "identity": identify(part, place),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit if commit and known == "unknown" else known,
        "command": command,
        "machine": describe_machine(),
        "sections": sections,
    }

    def write() -> None:
        result["seconds"] = round(time.monotonic() - start, 1)
        write_whole(file, json.dumps(result, indent=1, ensure_ascii=False) + "\n")

    def keep(name: str, content: object) -> None:
        sections[name] = content
        write()

    try:
        part.measure(place, keep)
        result["complete"] = True
    except Exception as error:
        result["failed"] = shorten_reason(f"{type(error).__name__}: {error}")
        raise
    finally:
        write()

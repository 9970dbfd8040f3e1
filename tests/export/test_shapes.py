"""The nine shapes that crossrank must serve first, in their true sizes with random weights.

Each is exported to the CPU graph in float32 and the portable ones in float32 and float16, which proves them, and
then scores pairs on the oldest onnxruntime that pyproject.toml allows and on the installed one. A run takes a
quarter of an hour on 2 cores and needs 8 GB of memory and a package index.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from benchmarks.inputs.models import SHAPES, find_registered
from benchmarks.inputs.random_checkpoint import write_random_checkpoint
from benchmarks.options import find_test_data
from crossrank import CrossEncoder
from crossrank._artifact.manifest import read_manifest
from crossrank._cli.tables import format_parity_table
from crossrank.export import export_model
from tests.support.tiny_models import write_json

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PAIRS = (
    ("how do lighthouses work", "A lens turns around the lamp and gathers its light into beams."),
    ("how do lighthouses work", "Whisk the eggs with sugar until the mixture is pale."),
    ("how do lighthouses work", ""),
    ("price of a violin", "A violin for students costs a few hundred euros. " * 8),
    ("price of a violin", "🎻 скрипка стоит дорого, 小提琴很贵"),
    ("why is the sky red in the evening " * 12, "The blue part of the light is scattered on its longer way."),
)


@pytest.fixture(scope="module")
def oldest_onnxruntime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment with crossrank, as users install it, and the oldest onnxruntime it allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (requirement,) = project["optional-dependencies"]["cpu"]
    folder = tmp_path_factory.mktemp("oldest")
    source = folder / "source"  # a copy, so that the build leaves nothing in the checkout and finds nothing old there
    kept = ("engine", "export", "models", "pyproject.toml", "setup.cfg", "README.md", "LICENSE", "MANIFEST.in")
    source.mkdir()
    for name in kept:
        copy: Any = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, source / name)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    oldest = requirement.replace(">=", "==")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(source), oldest]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{oldest} could not be installed: {done.stderr[-500:]}")
    return python


_SCORE = """
import json, sys
import onnxruntime
from crossrank import CrossEncoder
folder, precision, pairs = json.load(sys.stdin)
logits = CrossEncoder(folder, precision=precision).predict(pairs, activation_fn="identity")
print(json.dumps([onnxruntime.__version__, logits.tolist()]))
"""


def score_on(python: Path, artifact: Path, precision: str) -> tuple[str, np.ndarray[Any, Any]]:
    """The version of a python's onnxruntime and the logits that it gives for `PAIRS`."""
    request = json.dumps([str(artifact), precision, PAIRS])
    done = subprocess.run([python, "-c", _SCORE], input=request, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    version, logits = json.loads(done.stdout)
    return version, np.array(logits, np.float32)


def keep_portable(artifact: Path, folder: Path) -> Path:
    """The same artifact with its portable graphs alone, so that a CPU chooses those."""
    shutil.copytree(artifact, folder, copy_function=os.link)
    manifest = json.loads((artifact / "crossrank.json").read_text(encoding="utf-8"))
    manifest["variants"] = [variant for variant in manifest["variants"] if variant["variant"] == "portable"]
    (folder / "crossrank.json").unlink()
    write_json(folder / "crossrank.json", manifest)
    return folder


@pytest.mark.parametrize("name", [pytest.param(key, id=name) for key, (name, _) in SHAPES.items()])
def test_shape_is_proven_and_scores_on_old_and_new_onnxruntime(
    name: str, oldest_onnxruntime: Path, tmp_path: Path
) -> None:
    """Tolerance between two onnxruntimes: the exporter's own bound against the reference, 1e-4 and 0.01."""
    shape = find_registered(name)
    write_random_checkpoint(tmp_path / "checkpoint", shape, find_test_data())
    artifact = export_model(
        tmp_path / "checkpoint", tmp_path / "artifact", variants=["cpu", "portable"], precisions=["fp32", "fp16"]
    )
    shutil.rmtree(tmp_path / "checkpoint")  # up to 1.3 GB
    manifest = read_manifest(artifact)
    print(f"\n{name}\n{format_parity_table(manifest)}")
    assert [variant.name for variant in manifest.variants] == ["cpu fp32", "portable fp32", "portable fp16"]
    reference = np.array(json.loads((artifact / "proof.json").read_text(encoding="utf-8"))["logits"])
    assert reference.std(axis=0).min() > 0.1  # a thousand times the bound, so that it says something

    portable = keep_portable(artifact, tmp_path / "portable")
    graphs = [
        (artifact, "cpu", "fp32", 1e-4),
        (portable, "portable", "fp32", 1e-4),
        (portable, "portable", "fp16", 0.01),
    ]
    for folder, variant, precision, tolerance in graphs:
        model = CrossEncoder(folder, precision=precision)  # type: ignore[arg-type]  # a name of the tuple above
        assert (model.info().variant, model.info().precision) == (variant, precision)
        newest = model.predict(list(PAIRS), activation_fn="identity")
        del model
        version, oldest = score_on(oldest_onnxruntime, folder, precision)
        assert version != onnxruntime.__version__
        assert newest.shape == ((len(PAIRS), shape.labels) if shape.labels > 1 else (len(PAIRS),))
        assert np.abs(newest - oldest).max() <= tolerance
        print(
            f"{variant} {precision}: onnxruntime {version} against {onnxruntime.__version__}: "
            f"{np.abs(newest - oldest).max():.1e}"
        )
    shutil.rmtree(portable)
    shutil.rmtree(artifact)

"""Other tools read an artifact's portable graph and give our scores.

sentence-transformers 5 is the last that installs with an ONNX backend: 6 wants transformers >= 5, and optimum-onnx
0.1.0 wants transformers < 4.58. It gets an environment of its own, which takes a minute or two to fill.
"""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from crossrank import CrossEncoder
from crossrank.export import export_model
from tests.support.references import reference
from tests.support.tiny_models import PAIRS, make_checkpoint
from tests.support.trained_models import Trained

torch = reference("torch")
sentence_transformers = reference("sentence_transformers")

SCRIPT = Path(__file__).parents[1] / "support" / "sentence_transformers_5.py"
REQUIREMENTS = [
    "sentence-transformers[onnx]>=5,<6",
    "transformers<4.58",  # what optimum-onnx 0.1.0 allows; without it a resolver may go far back in versions
    "torch==2.13.0",  # an exact pin keeps a CPU build a CPU build
]
# Two float32 graphs of the same weights, the portable one padded: 1e-6 was seen on logits of up to 11.
ATOL = 1e-4

WEB_PAIRS = [
    ("how many people live in berlin", "Berlin has a population of 3,520,031 registered inhabitants."),
    ("how many people live in berlin", "New York City is famous for the Metropolitan Museum of Art."),
    ("how many people live in berlin", ""),
    ("what is a lobster roll", "A lobster roll is a sandwich of lobster meat on a hot dog bun. " * 60),
    ("what is a lobster roll " * 80, "A sandwich native to New England. " * 80),
    ("[SEP] lobster", "日本のロブスター 🦞 [PAD] e\u0301"),
]


@pytest.fixture(scope="module")
def python_of_5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with sentence-transformers 5."""
    folder = tmp_path_factory.mktemp("sentence-transformers-5")
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return python


def _score_with_5(python: Path, folders: list[Path], pairs: Any) -> dict[Path, Any]:
    job = json.dumps({"folders": [str(folder) for folder in folders], "pairs": pairs})
    done = subprocess.run(
        [str(python), str(SCRIPT)],
        input=job,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["versions"]["sentence-transformers"].startswith("5.")
    print(result["versions"], file=sys.stderr)
    return {Path(folder): np.array(scores, np.float32) for folder, scores in result["scores"].items()}


@pytest.mark.slow
def test_sentence_transformers_5_scores_a_trained_model_as_we_do(python_of_5: Path, trained: Trained) -> None:
    theirs = _score_with_5(python_of_5, [trained.artifact], WEB_PAIRS)[trained.artifact]
    ours = CrossEncoder(trained.artifact, device="cpu").predict(WEB_PAIRS)
    np.testing.assert_allclose(ours, theirs, atol=ATOL)


@pytest.mark.slow
def test_sentence_transformers_5_scores_every_architecture_as_we_do(python_of_5: Path, tmp_path: Path) -> None:
    folders = []
    for architecture in ("bert", "electra", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet"):
        for labels in (1, 2):
            checkpoint = make_checkpoint(tmp_path / f"{architecture}-{labels}", architecture, labels=labels)
            folders.append(
                export_model(checkpoint, tmp_path / f"{architecture}-{labels}-artifact", variants=["portable"])
            )
    theirs = _score_with_5(python_of_5, folders, PAIRS)
    for folder in folders:
        ours = CrossEncoder(folder, device="cpu").predict(PAIRS)
        np.testing.assert_allclose(ours, theirs[folder], atol=ATOL, err_msg=folder.name)


@pytest.mark.slow
def test_the_activation_that_sentence_transformers_saved_reaches_version_5(python_of_5: Path, tmp_path: Path) -> None:
    # Saved by version 6 it stands in config_sentence_transformers.json, which is read beside a modules.json only.
    plain = str(make_checkpoint(tmp_path / "plain", "bert"))
    model = sentence_transformers.CrossEncoder(plain, device="cpu", activation_fn=torch.nn.Identity())
    model.save_pretrained(str(tmp_path / "saved"))
    folder = export_model(tmp_path / "saved", tmp_path / "artifact", variants=["portable"])
    theirs = _score_with_5(python_of_5, [folder], PAIRS)[folder]
    np.testing.assert_allclose(CrossEncoder(folder, device="cpu").predict(PAIRS), theirs, atol=ATOL)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "mpnet"])
def test_plain_onnxruntime_runs_the_portable_graph_on_transformers_inputs(tmp_path: Path, architecture: str) -> None:
    transformers = pytest.importorskip("transformers")
    checkpoint = make_checkpoint(tmp_path / "checkpoint", architecture)
    folder = export_model(checkpoint, tmp_path / "artifact", variants=["portable"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(
        [query for query, _ in PAIRS],
        [document for _, document in PAIRS],
        truncation="longest_first",
        max_length=48,
        padding=True,
        return_tensors="np",
    )
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    names = {node.name for node in session.get_inputs()}
    assert names == set(batch), "the graph wants what the model's tokenizer gives"
    feed = {name: array.astype(np.int64) for name, array in batch.items()}
    (logits,) = session.run(["logits"], feed)
    ours = CrossEncoder(folder, device="cpu").predict(PAIRS, activation_fn="identity")
    np.testing.assert_allclose(logits[:, 0], ours, atol=ATOL)

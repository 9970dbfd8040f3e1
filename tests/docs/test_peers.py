"""What docs/migrating.md says of FlashRank's and fastembed's scores."""

import json
import os
import subprocess
import venv
from pathlib import Path

import numpy as np
import pytest

from crossrank import CrossEncoder
from crossrank.export._read.texts import load_pairs
from tests.support.trained_models import Trained

SCRIPT = Path(__file__).parents[1] / "support" / "peer_scores.py"


@pytest.mark.slow
def test_flashrank_and_fastembed_score_our_artifact_as_we_do(trained: Trained, tmp_path: Path) -> None:
    """FlashRank gives probabilities, fastembed logits; on one float32 graph only rounding differs (9.5e-7 was seen)."""
    venv.create(tmp_path / "peers", with_pip=True)
    python = tmp_path / "peers" / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "flashrank", "fastembed"]
    subprocess.run(install, check=True, capture_output=True, timeout=600)
    pairs = load_pairs("proof")
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [str(python), str(SCRIPT)],
        input=json.dumps({"artifact": str(trained.artifact), "work": str(tmp_path / "work"), "pairs": pairs}),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    model = CrossEncoder(trained.artifact, device="cpu")
    np.testing.assert_allclose(model.predict(pairs), theirs["fastembed"], atol=1e-5)
    np.testing.assert_allclose(model.predict(pairs, activation_fn="sigmoid"), theirs["flashrank"], atol=1e-5)

"""The exporter's two references agree with each other and with transformers run one pair at a time."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrank._artifact.settings import read_model_folder
from crossrank.export._prove.passes.activations import erf
from crossrank.export._prove.reference import numpy_logits, transformers_logits
from tests.support.tiny_models import ARCHITECTURES, MAX_LENGTH, PAIRS, config_of, make_checkpoint
from tests.support.tiny_models import transformers_logits as one_by_one

# Float32 rounding of two layers at logits of standard deviation 1.5, and erf's own 5e-7.
TOLERANCE = 2e-5
CASES = [
    *((architecture, {}) for architecture in ARCHITECTURES),
    ("bert", {"hidden_act": "gelu_new"}),
    ("bert", {"hidden_act": "relu"}),
    *(
        ("bert", {"hidden_act": name})
        for name in ("gelu_python", "gelu_accurate", "gelu_fast", "gelu_python_tanh", "gelu_pytorch_tanh", "swish")
    ),
    ("distilbert", {"activation": "silu"}),
    ("roberta", {"type_vocab_size": 2, "layer_norm_eps": 1e-3}),
    ("electra", {"embedding_size": 32}),
]


def _numpy_logits(folder: Path, max_length: int, *, token_types: bool) -> Any:
    tokenizer = folder / "tokenizer.json"
    return numpy_logits(folder, config_of(folder), tokenizer, PAIRS, max_length=max_length, token_types=token_types)


def _transformers_logits(folder: Path, max_length: int, *, token_types: bool) -> Any:
    source, tokenizer = read_model_folder(folder), folder / "tokenizer.json"
    return transformers_logits(source, tokenizer, PAIRS, max_length=max_length, token_types=token_types)


@pytest.mark.parametrize(("architecture", "overrides"), CASES)
def test_numpy_reference_equals_transformers(tmp_path: Path, architecture: str, overrides: dict[str, Any]) -> None:
    folder = make_checkpoint(tmp_path, architecture, labels=2, **overrides)
    expected = one_by_one(folder, PAIRS)
    token_types = architecture in ("bert", "electra")
    ours = _numpy_logits(folder, MAX_LENGTH, token_types=token_types)
    theirs = _transformers_logits(folder, MAX_LENGTH, token_types=token_types)
    assert expected.std(axis=0).min() >= 1
    assert np.abs(ours - expected).max() <= TOLERANCE
    assert np.abs(theirs - expected).max() <= TOLERANCE


def test_numpy_reference_sees_token_types(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "bert")
    with_types, without = (_numpy_logits(folder, MAX_LENGTH, token_types=types) for types in (True, False))
    assert np.abs(with_types - without).max() > 0.1


def test_references_leave_a_shorter_max_length_to_the_caller(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "xlm-roberta")
    expected = one_by_one(folder, PAIRS, max_length=20)
    assert np.abs(_numpy_logits(folder, 20, token_types=False) - expected).max() <= TOLERANCE
    assert np.abs(_transformers_logits(folder, 20, token_types=False) - expected).max() <= TOLERANCE


def test_numpy_reference_equals_transformers_where_distances_share_the_last_bucket(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "mpnet", max_length=200)
    expected = one_by_one(folder, PAIRS, max_length=200)
    assert np.abs(_numpy_logits(folder, 200, token_types=False) - expected).max() <= TOLERANCE


def test_erf_is_right_to_float32_rounding() -> None:
    """5e-7: 1.5e-7 of the formula, the rest rounding of a sum whose terms reach 1.45."""
    x = np.linspace(-6, 6, 100_001, dtype=np.float32)
    exact = np.array([math.erf(value) for value in x.tolist()])
    assert np.abs(erf(x) - exact).max() <= 5e-7
    assert erf(np.zeros(1, np.float32))[0] == pytest.approx(0, abs=5e-7)
    assert erf(np.array([-np.inf, np.inf], np.float32)).tolist() == [-1, 1]

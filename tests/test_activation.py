"""The activation that a checkpoint asks for, as sentence-transformers finds it, and the functions themselves."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrank import InputError, UnsupportedModelError
from crossrank._activation import ACTIVATIONS, default_activation, resolve_activation, sigmoid, softmax
from tests.references import reference
from tests.tiny_models import config_of, make_checkpoint, write_json

torch = reference("torch")
sentence_transformers = reference("sentence_transformers")

SIGMOID = "torch.nn.modules.activation.Sigmoid"
IDENTITY = "torch.nn.modules.linear.Identity"
# The three places in their order of precedence.
PLACES = ("config_sentence_transformers.json", "sentence_transformers", "sbert_ce_default_activation_function")

EVERY_CHOICE = list(itertools.product((None, SIGMOID, IDENTITY), repeat=3))

LOGITS = np.array([[0.0, 1.0, -1.0], [-30.0, 30.0, 0.5], [88.0, -88.0, 500.0], [-1000.0, 1000.0, 0.0]], np.float32)


def _configs(values: tuple[str | None, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and config_sentence_transformers.json with these values in `PLACES`."""
    file, newer, older = values
    config: dict[str, Any] = {"sentence_transformers": {"version": "4.1.0"}}
    if newer is not None:
        config["sentence_transformers"]["activation_fn"] = newer
    if older is not None:
        config[PLACES[2]] = older
    return config, {} if file is None else {"activation_fn": file}


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("values", EVERY_CHOICE)
def test_the_first_place_that_names_an_activation_wins(values: tuple[str | None, ...], labels: int) -> None:
    name, origin = default_activation(*_configs(values), labels)
    named = [(value, place) for value, place in zip(values, PLACES, strict=True) if value is not None]
    if named:
        value, place = named[0]
        assert name == value.rpartition(".")[2]
        assert place in origin
    else:
        assert name == ("Sigmoid" if labels == 1 else "Identity")
        assert origin == f"default for {labels} label{'s'[: labels != 1]}"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Tiny checkpoints of one and two labels as sentence-transformers saves them."""
    folders = {}
    for labels in (1, 2):
        folder = tmp_path_factory.mktemp(f"labels-{labels}")
        model = sentence_transformers.CrossEncoder(
            str(make_checkpoint(folder / "plain", "bert", labels=labels)), device="cpu"
        )
        model.save_pretrained(str(folder / "saved"))
        folders[labels] = folder / "saved"
    return folders


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("values", EVERY_CHOICE)
def test_the_choice_is_sentence_transformers(
    saved: dict[int, Path], tmp_path: Path, values: tuple[str | None, ...], labels: int
) -> None:
    for file in saved[labels].iterdir():
        if file.name not in ("config.json", PLACES[0]):
            (tmp_path / file.name).symlink_to(file)
    config, settings = _configs(values)
    whole = config_of(saved[labels]) | config
    write_json(tmp_path / "config.json", whole)
    if settings:
        write_json(tmp_path / PLACES[0], {"model_type": "CrossEncoder"} | settings)
    theirs = sentence_transformers.CrossEncoder(str(tmp_path), device="cpu")
    assert default_activation(whole, settings, labels)[0] == type(theirs.activation_fn).__name__


@pytest.mark.parametrize("value", ["torch.nn.modules.activation.Tanh", "my_package.Squash", "", 3, ["Sigmoid"]])
def test_an_activation_that_crossrank_lacks_is_refused_by_name(value: Any) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        default_activation({"sbert_ce_default_activation_function": value}, {}, 1)
    message = str(caught.value)
    assert repr(value) in message
    assert "config.json sbert_ce_default_activation_function" in message
    assert "Identity, Sigmoid, Softmax" in message


def test_sigmoid_equals_float64_and_does_not_overflow() -> None:
    x = np.linspace(-80, 80, 4001, dtype=np.float32)
    with np.errstate(all="raise", under="ignore"):
        ours = sigmoid(x)
        extremes = sigmoid(np.array([-1e4, -104.0, 104.0, 1e4], np.float32))
    exact = 1 / (1 + np.exp(-x.astype(np.float64)))
    # Relative, also where the result is 1e-35: float32 holds 6e-8 of a value, and three roundings are made.
    np.testing.assert_allclose(ours, exact, rtol=3e-7)
    assert ours.dtype == np.float32
    assert extremes.tolist()[2:] == [1.0, 1.0]
    assert extremes[0] == 0.0
    assert sigmoid(np.array([0], np.float32)).tolist() == [0.5]


def test_softmax_equals_torch_and_sums_to_one() -> None:
    expected = torch.softmax(torch.from_numpy(LOGITS), dim=-1).numpy()
    # The same float32 formula in another order of operations: a few units in the last place of numbers below 1.
    np.testing.assert_allclose(softmax(LOGITS), expected, atol=1e-6)
    np.testing.assert_allclose(softmax(LOGITS).sum(axis=-1), 1, atol=1e-6)
    assert softmax(LOGITS).dtype == np.float32


def test_activations_take_no_pairs() -> None:
    for function in ACTIVATIONS.values():
        for labels in (1, 3):
            result = function(np.zeros((0, labels), np.float32))
            assert result.shape == (0, labels)
            assert result.dtype == np.float32


@pytest.mark.parametrize("name", ["sigmoid", "Sigmoid", "SIGMOID", "torch.nn.Sigmoid", SIGMOID])
def test_names_are_found_in_any_spelling(name: str) -> None:
    assert resolve_activation(name) is sigmoid


@pytest.mark.parametrize(
    ("module", "name"),
    [(torch.nn.Sigmoid(), "Sigmoid"), (torch.nn.Identity(), "Identity"), (torch.nn.Softmax(dim=-1), "Softmax")],
)
def test_a_torch_module_becomes_the_function_of_its_name(module: Any, name: str) -> None:
    assert isinstance(module, torch.nn.Module)
    assert resolve_activation(module) is ACTIVATIONS[name]


def test_a_function_is_taken_as_it_is() -> None:
    assert resolve_activation(np.tanh) is np.tanh


@pytest.mark.parametrize("activation", ["tanh", "", "torch.nn.ReLU"])
def test_unknown_names_are_refused_with_the_known_ones(activation: str) -> None:
    with pytest.raises(
        InputError, match=r"activation_fn=.*: a function, or one of Identity, Sigmoid, Softmax"
    ) as caught:
        resolve_activation(activation)
    assert repr(activation) in str(caught.value)


def test_other_torch_modules_are_refused() -> None:
    with pytest.raises(InputError, match=r"activation_fn=Tanh\(\): of torch's modules Identity, Sigmoid, Softmax"):
        resolve_activation(torch.nn.Tanh())


def test_what_cannot_be_called_is_refused() -> None:
    wrong: Any = 3
    with pytest.raises(InputError, match="activation_fn=3: a function, or one of"):
        resolve_activation(wrong)


def test_names_are_those_that_artifacts_may_carry() -> None:
    assert json.dumps(sorted(ACTIVATIONS)) == '["Identity", "Sigmoid", "Softmax"]'

"""The activation that a checkpoint asks for, as sentence-transformers finds it, those that callers pass, and the
functions themselves.

Tolerance of scores against sentence-transformers: as in test_predict.py.
"""

import functools
import itertools
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import crossrank
from crossrank import InputError, UnsupportedModelError
from crossrank._artifact.activation import (
    ACTIVATIONS,
    apply_activation,
    default_activation,
    order_key,
    resolve_activation,
    sigmoid,
)
from tests.support.artifacts import edit_manifest, make_artifact
from tests.support.references import reference
from tests.support.tiny_models import PAIRS, config_of, make_checkpoint, write_json

torch = reference("torch")
sentence_transformers = reference("sentence_transformers")
scipy_special = reference("scipy.special")

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
    name, origin, unknown = default_activation(*_configs(values), labels)
    assert unknown is None
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


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_is_torchs_of_its_name(name: str) -> None:
    kind = getattr(torch.nn, name)
    module = kind(dim=-1) if "Softmax" in name else kind()
    ours = ACTIVATIONS[name](LOGITS)
    # Ours rounds once, torch after each step: a few units in the last place.
    np.testing.assert_allclose(ours, module(torch.from_numpy(LOGITS)).numpy(), rtol=3e-6, atol=1e-12)
    assert ours.dtype == np.float32


@pytest.mark.parametrize("name", ["Identity", "Sigmoid", "Tanh", "ReLU", "LogSigmoid"])
def test_no_score_falls_where_its_logit_rises(name: str) -> None:
    # Neighbours among float32, where a formula in float32 goes up and down by its last bit.
    for start in (-20.0, -1.5, -0.3, 0.0, 0.3, 1.5, 5.0):
        logits = np.float32(start).view(np.int32) + np.arange(20_000, dtype=np.int32) * (1 if start >= 0 else -1)
        assert (np.diff(ACTIVATIONS[name](logits.view(np.float32))) >= 0).all()


def test_activations_take_no_pairs() -> None:
    for function in ACTIVATIONS.values():
        for labels in (1, 3):
            result = function(np.zeros((0, labels), np.float32))
            assert result.shape == (0, labels)
            assert result.dtype == np.float32


@pytest.mark.parametrize("name", ["sigmoid", "Sigmoid", "SIGMOID", "torch.nn.Sigmoid", SIGMOID])
def test_names_are_found_in_any_spelling(name: str) -> None:
    assert resolve_activation(name) is sigmoid


# --- what a caller may pass


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (torch.nn.Sigmoid(), "Sigmoid"),
        (torch.nn.Identity(), "Identity"),
        (torch.nn.Tanh(), "Tanh"),
        (torch.nn.ReLU(), "ReLU"),
        (torch.nn.Softmax(dim=-1), "Softmax"),
        (torch.nn.Softmax(dim=1), "Softmax"),
        (torch.nn.Softmax(), "Softmax"),
        (torch.sigmoid, "Sigmoid"),
        (torch.special.expit, "Sigmoid"),
        (torch.nn.functional.sigmoid, "Sigmoid"),
        (torch.nn.functional.softmax, "Softmax"),
        (torch.tanh, "Tanh"),
        (np.tanh, "Tanh"),
        (scipy_special.expit, "Sigmoid"),
        ("torch.nn.ReLU", "ReLU"),
        ("tanh", "Tanh"),
    ],
)
def test_what_we_have_too_is_replaced_by_ours(activation: Any, name: str) -> None:
    assert torch.__version__  # where there is none, its functions are none
    assert resolve_activation(activation) is ACTIVATIONS[name]


def hooked(module: Any) -> Any:
    module.register_forward_hook(lambda module, arguments, result: result / 2)
    return module


def hooked_before(module: Any) -> Any:
    module.register_forward_pre_hook(lambda module, arguments: (-arguments[0],))
    return module


def patched(module: Any) -> Any:
    module.forward = lambda logits: -logits
    return module


@pytest.mark.parametrize("change", [hooked, hooked_before, patched])
@pytest.mark.parametrize(
    "make",
    [
        torch.nn.Sigmoid,
        torch.nn.Hardtanh,
        lambda: torch.nn.Softmax(dim=-1),
        lambda: torch.nn.Sequential(torch.nn.Tanh()),
    ],
    ids=["Sigmoid", "Hardtanh", "Softmax", "Sequential"],
)
def test_a_module_of_torchs_that_was_changed_is_called(make: Callable[[], Any], change: Callable[[Any], Any]) -> None:
    logits = np.array([[-1, 2], [3, 0.5]], np.float32)
    module = change(make())
    activation = resolve_activation(module)
    np.testing.assert_array_equal(apply_activation(activation, logits), module(torch.tensor(logits)).numpy())
    assert order_key(activation, logits, 0) is None
    inside = resolve_activation(torch.nn.Sequential(change(make())))
    assert order_key(inside, logits, 0) is None


def test_a_class_of_torchs_that_was_changed_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_activation(torch.nn.Sigmoid()) is sigmoid
    monkeypatch.setattr(torch.nn.Sigmoid, "forward", lambda self, logits: -logits)
    assert apply_activation(resolve_activation(torch.nn.Sigmoid()), np.ones((1, 1), np.float32)).item() == -1
    monkeypatch.undo()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, arguments, result: -result)
    try:
        assert apply_activation(resolve_activation(torch.nn.Identity()), np.ones((1, 1), np.float32)).item() == -1
    finally:
        handle.remove()


def test_a_plain_function_gets_an_array_and_a_module_of_ones_own_a_tensor(folders: dict[int, Path]) -> None:
    """Whose methods of one name compute two things."""

    def scaled(logits: Any) -> Any:
        return logits / logits.std(0)

    kind = type("Scaled", (torch.nn.Module,), {"forward": lambda self, logits: scaled(logits)})
    pairs, model = PAIRS[:20], crossrank.CrossEncoder(folders[1], device="cpu")
    logits = model.predict(pairs, activation_fn="identity")
    np.testing.assert_allclose(model.predict(pairs, activation_fn=scaled), logits / logits.std(ddof=0), rtol=1e-5)
    theirs = sentence_transformers.CrossEncoder(str(folders[1].parent / "checkpoint"), device="cpu")
    expected = theirs.predict(list(pairs), activation_fn=kind())
    np.testing.assert_allclose(model.predict(pairs, activation_fn=kind()), expected, rtol=1e-4)
    np.testing.assert_allclose(expected, logits / logits.std(ddof=1), rtol=1e-4)


def test_a_plain_function_is_taken_as_it_is() -> None:
    assert resolve_activation(np.square) is np.square


def calibrated() -> Any:
    """A module of one's own, with weights: half of the logits, as probabilities."""
    kind = type("Calibrated", (torch.nn.Module,), {"forward": lambda self, logits: torch.sigmoid(self.scale * logits)})
    module = kind()
    module.scale = torch.nn.Parameter(torch.tensor(0.5))
    return module


OF_TORCH: list[Callable[..., Any]] = [
    torch.sigmoid,
    torch.nn.Tanh(),
    torch.nn.ReLU(),
    torch.nn.GELU(),
    torch.nn.Hardtanh(inplace=True),
    torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Sigmoid()),
    calibrated,
    lambda logits: logits.sigmoid(),
    lambda logits: torch.sigmoid(logits / 2),
    lambda logits: logits.softmax(dim=0),
    lambda logits: logits.sigmoid().squeeze(-1) if logits.shape[-1] == 1 else logits,
    functools.partial(torch.nn.functional.softplus, beta=2),
    torch.nn.Softmax(dim=0),
    torch.Tensor.sigmoid,
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return {labels: make_artifact(tmp_path_factory.mktemp(f"artifact-{labels}"), labels=labels) for labels in (1, 2)}


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("activation", OF_TORCH, ids=str)
def test_torchs_modules_and_functions_score_as_in_sentence_transformers(
    folders: dict[int, Path], labels: int, activation: Any
) -> None:
    pairs = PAIRS[:20]  # one batch there, over which some of these are computed
    theirs = sentence_transformers.CrossEncoder(str(folders[labels].parent / "checkpoint"), device="cpu")
    activation = calibrated() if activation is calibrated else activation
    expected = theirs.predict(list(pairs), activation_fn=activation)
    loaded = crossrank.CrossEncoder(folders[labels], device="cpu", activation_fn=activation)
    for scores in (
        loaded.predict(pairs),
        crossrank.CrossEncoder(folders[labels]).predict(pairs, activation_fn=activation),
    ):
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=1e-6)


def test_an_activation_over_the_documents_is_over_all_of_the_call(folders: dict[int, Path]) -> None:
    pairs = list(PAIRS) * 3  # several batches in sentence-transformers
    scores = crossrank.CrossEncoder(folders[1]).predict(pairs, activation_fn=torch.nn.Softmax(dim=0))
    assert abs(scores.sum() - 1) < 1e-6
    theirs = sentence_transformers.CrossEncoder(str(folders[1].parent / "checkpoint"), device="cpu")
    assert theirs.predict(pairs, activation_fn=torch.nn.Softmax(dim=0)).sum() > 1.5


def test_a_function_that_changes_its_array_changes_no_ranking(folders: dict[int, Path]) -> None:
    model, documents = crossrank.CrossEncoder(folders[1]), [document for _, document in PAIRS]
    expected = [hit["corpus_id"] for hit in model.rank("sky", documents, activation_fn="identity")]
    found = model.rank("sky", documents, activation_fn=torch.nn.Hardtanh(-0.1, 0.1, inplace=True))
    assert [hit["corpus_id"] for hit in found] == expected


def test_a_function_that_works_in_place_is_applied_once(folders: dict[int, Path]) -> None:
    def halved(logits: Any) -> Any:
        logits /= 2
        return torch.sigmoid(logits)

    model = crossrank.CrossEncoder(folders[1])
    expected = model.predict(PAIRS, activation_fn=lambda logits: torch.sigmoid(logits / 2))
    np.testing.assert_allclose(model.predict(PAIRS, activation_fn=halved), expected, atol=1e-6)


def test_an_error_of_the_callers_function_is_theirs(folders: dict[int, Path]) -> None:
    def broken(logits: Any) -> Any:
        return logits.no_such_method()

    with pytest.raises(AttributeError, match="no_such_method"):
        crossrank.CrossEncoder(folders[1]).predict(PAIRS, activation_fn=broken)
    with pytest.raises(InputError, match=r"activation_fn gives shape \(2,\) for logits of shape"):
        crossrank.CrossEncoder(folders[1]).predict(PAIRS, activation_fn=lambda logits: logits[:2, 0])


@pytest.mark.parametrize("activation", ["gelu", "", "torch.nn.GELU"])
def test_unknown_names_are_refused_with_the_known_ones(activation: str) -> None:
    with pytest.raises(
        InputError, match=r"activation_fn=.*: a function, or one of Identity, Sigmoid, Softmax, Tanh, ReLU"
    ) as caught:
        resolve_activation(activation)
    assert repr(activation) in str(caught.value)


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        (3, "activation_fn=3: a function, or one of"),
        (dict, r"activation_fn=<class 'dict'>: this is a class; pass what it makes: dict\(\)"),
    ],
)
def test_what_is_no_function_is_refused(activation: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_activation(activation)


@pytest.mark.parametrize(
    "make",
    [
        lambda: "softmax",
        lambda: "LogSoftmax",
        lambda: torch.nn.Softmax(),
        lambda: torch.nn.Softmax(dim=-1),
        lambda: torch.nn.functional.softmax,
    ],
)
def test_a_softmax_over_one_label_is_refused(folders: dict[int, Path], make: Callable[[], Any]) -> None:
    activation = make()
    message = "every score of a model with one label the same: pass 'sigmoid' for probabilities, or 'identity'"
    with pytest.raises(InputError, match=message):
        crossrank.CrossEncoder(folders[1], activation_fn=activation)
    model = crossrank.CrossEncoder(folders[1])
    with pytest.raises(InputError, match=message):
        model.rank("sky", ["a", "b"], activation_fn=activation)
    with pytest.raises(InputError, match=message):
        model.predict([("sky", "a")], activation_fn=activation)


def test_a_function_that_makes_all_scores_the_same_is_warned_of_once(
    folders: dict[int, Path], caplog: pytest.LogCaptureFixture
) -> None:
    model = crossrank.CrossEncoder(folders[1])
    for _ in range(2):
        model.rank("sky", ["sea", "red", "tea"], activation_fn=lambda logits: torch.softmax(logits, dim=-1))
    assert [record.getMessage() for record in caplog.records] == [
        "activation_fn makes all 3 scores 1, of logits that differ"
    ]
    model.rank("sky", ["sea", "sea"], activation_fn=lambda logits: torch.softmax(logits, dim=-1))
    assert len(caplog.records) == 1


# --- what a checkpoint names


OTHERS = ("function", "builtin_function_or_method", "my_package.Squash", "my_package.Identity", "Identity", "tanh", "")


@pytest.mark.parametrize("path", [*(f"torch.nn.{name}" for name in ACTIVATIONS), SIGMOID, IDENTITY, *OTHERS])
@pytest.mark.parametrize("labels", [1, 2])
def test_a_saved_activation_scores_as_in_sentence_transformers(
    folders: dict[int, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str, labels: int
) -> None:
    if "Softmax" in path and labels == 1:
        return  # refused: see below
    for file in (folders[labels].parent / "checkpoint").iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = config_of(tmp_path)
    (tmp_path / "config.json").unlink()
    write_json(tmp_path / "config.json", config | {"sentence_transformers": {"activation_fn": path}})
    theirs = sentence_transformers.CrossEncoder(str(tmp_path), device="cpu")
    with caplog.at_level(logging.WARNING, logger="crossrank"):
        ours = crossrank.CrossEncoder(tmp_path, device="cpu")
    warned = [record.getMessage() for record in caplog.records if record.name.startswith("crossrank")]
    np.testing.assert_allclose(ours.predict(PAIRS), theirs.predict(list(PAIRS)), atol=1e-5, rtol=1e-6)
    if path not in OTHERS:
        assert not warned
        return
    default = "Sigmoid" if labels == 1 else "Identity"
    assert len(warned) == 1
    assert f"names the activation {path!r}, none of torch's that crossrank has" in warned[0]
    assert f"{default} is in its place; pass activation_fn= for another" in warned[0]
    assert ours.info().activation == default
    assert f"since config.json sentence_transformers.activation_fn is {path!r}" in ours.info().activation_origin


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"activation": "Softmax"}, "names Softmax .* the same: pass 'sigmoid' for probabilities"),
        ({"unknown_activation": "torch.nn.GELU"}, r"names the activation 'torch\.nn\.GELU', .*: pass activation_fn="),
    ],
)
def test_what_cannot_be_made_is_refused_unless_the_caller_names_another(
    tmp_path: Path, folders: dict[int, Path], head: dict[str, str], message: str
) -> None:
    folder = shutil.copytree(folders[1], tmp_path / "artifact")
    edit_manifest(folder, lambda manifest: manifest["head"].update(head))
    with pytest.raises(UnsupportedModelError, match=message):
        crossrank.CrossEncoder(folder, device="cpu")
    model = crossrank.CrossEncoder(folder, device="cpu", activation_fn=torch.nn.Sigmoid())
    np.testing.assert_array_equal(model.predict(PAIRS), crossrank.CrossEncoder(folders[1]).predict(PAIRS))


# --- the order of scores that float32 cannot tell apart


@pytest.fixture(scope="module")
def saturated(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Checkpoints of one and two labels whose logits are so large that probabilities are 1.0."""
    folders = {}
    for labels in (1, 2):
        folder = make_checkpoint(tmp_path_factory.mktemp(f"saturated-{labels}") / "checkpoint", "bert", labels=labels)
        weights = load_file(folder / "model.safetensors")
        weights["classifier.weight"] = weights["classifier.weight"] * np.float32(4)
        weights["classifier.bias"] = np.array([60, 0][:labels], np.float32)
        save_file(weights, folder / "model.safetensors")
        folders[labels] = folder
    return folders


DOCUMENTS = list(dict.fromkeys(document for _, document in PAIRS))


@pytest.mark.parametrize(
    "activation",
    [None, "sigmoid", torch.nn.Tanh(), torch.nn.Hardtanh(), torch.nn.Sequential(torch.nn.Sigmoid()), np.tanh],
    ids=str,
)
def test_saturated_scores_are_ranked_by_their_logits(saturated: dict[int, Path], activation: Any) -> None:
    theirs = sentence_transformers.CrossEncoder(str(saturated[1]), device="cpu")
    expected = theirs.rank("sky", DOCUMENTS, activation_fn=torch.nn.Identity())
    model = crossrank.CrossEncoder(saturated[1], device="cpu")
    ranking = model.rank("sky", DOCUMENTS, activation_fn=activation)
    assert [hit["corpus_id"] for hit in ranking] == [hit["corpus_id"] for hit in expected]
    assert {hit["score"] for hit in ranking} == {1.0}
    there = [hit["corpus_id"] for hit in theirs.rank("sky", DOCUMENTS)]
    assert there == list(range(len(DOCUMENTS))) != [hit["corpus_id"] for hit in ranking]


@pytest.mark.parametrize("relevant", [0, 1])
@pytest.mark.parametrize("activation", [None, "softmax", "LogSoftmax"])
def test_saturated_probabilities_of_two_labels_are_ranked_by_the_difference_of_logits(
    saturated: dict[int, Path], relevant: int, activation: str | None
) -> None:
    theirs = sentence_transformers.CrossEncoder(str(saturated[2]), device="cpu").predict(
        [("sky", document) for document in DOCUMENTS]
    )
    expected = np.argsort(theirs[:, 1 - relevant] - theirs[:, relevant], kind="stable")
    model = crossrank.CrossEncoder(saturated[2], device="cpu", relevant_label=relevant, activation_fn=activation)
    ranking = model.rank("sky", DOCUMENTS)
    assert [hit["corpus_id"] for hit in ranking] == expected.tolist()
    if activation is None:
        assert len({hit["score"] for hit in ranking}) < len(DOCUMENTS)


def test_of_several_labels_the_relevant_one_stands_against_all_others() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (50, 4)).astype(np.float32)
    for label in range(4):
        key = order_key(ACTIVATIONS["Softmax"], logits, label)
        assert key is not None
        scores = torch.softmax(torch.from_numpy(logits).double(), dim=-1)[:, label].numpy()
        assert np.argsort(key).tolist() == np.argsort(scores).tolist()


def test_the_best_window_is_that_of_the_highest_logit(saturated: dict[int, Path]) -> None:
    model = crossrank.CrossEncoder(saturated[1], device="cpu", max_length=12)
    documents = [" ".join(DOCUMENTS[i:] + DOCUMENTS[:i]) for i in range(6)]
    expected = model.rank("sky", documents, activation_fn="identity", max_windows=8)
    found = model.rank("sky", documents, activation_fn="sigmoid", max_windows=8)
    assert [(hit["corpus_id"], hit["window"]) for hit in found] == [(h["corpus_id"], h["window"]) for h in expected]
    assert {hit["window"] for hit in found} != {0}
    assert {hit["score"] for hit in found} == {1.0}


def test_a_cascade_hands_on_the_documents_of_the_highest_logits(saturated: dict[int, Path]) -> None:
    models = [
        crossrank.CrossEncoder(saturated[1], device="cpu", activation_fn=name) for name in ("identity", "sigmoid")
    ]
    by_logit, by_score = (crossrank.Cascade([(model, None), (model, 5)]).rank("sky", DOCUMENTS) for model in models)
    assert [hit["corpus_id"] for hit in by_score] == [hit["corpus_id"] for hit in by_logit]


def test_scores_of_an_unknown_function_keep_the_inputs_order_in_ties(saturated: dict[int, Path]) -> None:
    model = crossrank.CrossEncoder(saturated[1], device="cpu")
    ranking = model.rank("sky", DOCUMENTS, activation_fn=lambda logits: (logits > 0).astype(np.float32))
    assert [hit["corpus_id"] for hit in ranking] == list(range(len(DOCUMENTS)))

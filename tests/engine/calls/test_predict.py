"""`predict` gives what sentence-transformers' CrossEncoder.predict gives, in every form of input and output.

Tolerance of scores: 1e-5 absolute plus 1e-6 of the value. Both sides compute in float32 with sums in different
orders, which was seen to move the logits of the real model by 8e-6 (they reach 11, where a float32 has steps of
1e-6) and those of the tiny ones by 3e-6.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crossrank
from crossrank import CrossEncoder, InputError
from crossrank.export import export_model
from tests.support.artifacts import make_artifact
from tests.support.references import reference
from tests.support.tiny_models import PAIRS, make_checkpoint
from tests.support.trained_models import Trained

torch = reference("torch")
sentence_transformers = reference("sentence_transformers")

ATOL, RTOL = 1e-5, 1e-6

WEB_PAIRS = [
    ("how many people live in berlin", "Berlin has a population of 3,520,031 registered inhabitants."),
    ("how many people live in berlin", "New York City is famous for the Metropolitan Museum of Art."),
    ("how many people live in berlin", ""),
    ("what is a lobster roll", "A lobster roll is a sandwich of lobster meat on a hot dog bun. " * 30),
    ("what is a lobster roll " * 60, "A sandwich native to New England. " * 60),  # both sides are cut
    ("[SEP] lobster", "日本のロブスター 🦞 [PAD] e\u0301"),
    ("", "no query"),
    ("lobster", "x"),
]


@pytest.fixture(scope="module")
def theirs_trained(trained_checkpoint: Path) -> Any:
    return sentence_transformers.CrossEncoder(str(trained_checkpoint), device="cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Artifacts with one, two and three labels, their checkpoints beside them."""
    return {labels: make_artifact(tmp_path_factory.mktemp(f"labels-{labels}"), labels=labels) for labels in (1, 2, 3)}


@pytest.fixture(scope="module")
def ours(folders: dict[int, Path]) -> dict[int, CrossEncoder]:
    return {labels: CrossEncoder(folder, device="cpu") for labels, folder in folders.items()}


@pytest.fixture(scope="module")
def theirs(folders: dict[int, Path]) -> dict[int, Any]:
    return {
        labels: sentence_transformers.CrossEncoder(str(folder.parent / "checkpoint"), device="cpu")
        for labels, folder in folders.items()
    }


@pytest.fixture(scope="module")
def tiny(ours: dict[int, CrossEncoder]) -> CrossEncoder:
    return ours[1]


def assert_close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, atol=ATOL, rtol=RTOL)


def test_scores_of_a_trained_model_are_sentence_transformers(trained: Trained, theirs_trained: Any) -> None:
    scores = CrossEncoder(trained.artifact, device="cpu").predict(WEB_PAIRS)
    assert scores.shape == (len(WEB_PAIRS),)
    assert scores.dtype == np.float32
    assert_close(scores, theirs_trained.predict(WEB_PAIRS))


def test_int8_scores_of_a_trained_model_are_near(trained: Trained, theirs_trained: Any) -> None:
    scores = CrossEncoder(trained.artifact, device="cpu", precision="int8").predict(WEB_PAIRS)
    # Coarse: the manifest has the figures for plain text. These pairs, empty queries and emoji, are unlike what the
    # quantizer was calibrated on; 0.23 on average and 1.6 at most were seen, on logits that span 20.
    error = np.abs(scores - theirs_trained.predict(WEB_PAIRS))
    assert error.mean() < 0.5
    assert error.max() < 3


@pytest.mark.parametrize("labels", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"apply_softmax": True},
        {"activation_fn": torch.nn.Sigmoid()},
        {"activation_fn": torch.nn.Identity()},
        {"activation_fn": torch.nn.Identity(), "apply_softmax": True},
        {"activation_fn": torch.nn.Softmax(dim=-1)},
        {"batch_size": 1},
        {"batch_size": 5},
        {"batch_size": 1000},
    ],
    ids=str,
)
def test_scores_shapes_and_dtypes_are_sentence_transformers(
    ours: dict[int, CrossEncoder], theirs: dict[int, Any], labels: int, options: dict[str, Any]
) -> None:
    if labels == 1 and isinstance(options.get("activation_fn"), torch.nn.Softmax):
        return  # refused: see test_activation.py
    scores = ours[labels].predict(PAIRS, **options)
    expected = theirs[labels].predict(list(PAIRS), **options)
    assert (type(scores), scores.shape, scores.dtype) == (np.ndarray, expected.shape, np.float32)
    assert expected.shape == ((len(PAIRS),) if labels == 1 else (len(PAIRS), labels))
    assert_close(scores, expected)


INPUT_FORMS = {
    "list of tuples": list(PAIRS),
    "list of lists": [list(pair) for pair in PAIRS],
    "tuple of tuples": tuple(PAIRS),
    "array of strings": np.array(PAIRS),
    "array of objects": np.array(PAIRS, dtype=object),
}
SINGLE_FORMS = {
    "tuple": PAIRS[0],
    "list": list(PAIRS[0]),
    "array of strings": np.array(PAIRS[0]),
    "array of objects": np.array(PAIRS[0], dtype=object),
}


@pytest.mark.parametrize("form", INPUT_FORMS)
def test_pairs_come_in_every_form(ours: dict[int, CrossEncoder], theirs: dict[int, Any], form: str) -> None:
    inputs: Any = INPUT_FORMS[form]
    for labels in (1, 3):
        scores, expected = ours[labels].predict(inputs), theirs[labels].predict(inputs)
        assert (type(scores), scores.shape, scores.dtype) == (type(expected), expected.shape, expected.dtype)
        assert_close(scores, expected)


@pytest.mark.parametrize("form", SINGLE_FORMS)
@pytest.mark.parametrize("labels", [1, 2, 3])
def test_a_single_pair_gives_its_entry(
    ours: dict[int, CrossEncoder], theirs: dict[int, Any], labels: int, form: str
) -> None:
    pair: Any = SINGLE_FORMS[form]
    score, expected = ours[labels].predict(pair), theirs[labels].predict(pair)
    assert np.shape(score) == np.shape(expected) == (() if labels == 1 else (labels,))
    assert type(score) is type(expected)  # np.float32 for one label, an array for more
    assert score.dtype == np.float32
    assert_close(score, expected)


def test_one_pair_in_a_list_gives_a_list_of_one(tiny: CrossEncoder, theirs: dict[int, Any]) -> None:
    assert tiny.predict([PAIRS[0]]).shape == theirs[1].predict([PAIRS[0]]).shape == (1,)


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("empty", [[], (), np.array([])], ids=["list", "tuple", "array"])
def test_no_pairs_give_an_empty_float32_array(ours: dict[int, CrossEncoder], labels: int, empty: Any) -> None:
    scores = ours[labels].predict(empty)
    # sentence-transformers gives float64 [0] here, since nothing was computed; ours keeps dtype and rank.
    assert isinstance(scores, np.ndarray)
    assert scores.dtype == np.float32
    assert scores.shape == ((0,) if labels == 1 else (0, labels))


def test_no_pairs_in_the_other_forms(tiny: CrossEncoder, theirs: dict[int, Any]) -> None:
    assert tiny.predict([], convert_to_numpy=False) == theirs[1].predict([], convert_to_numpy=False) == []
    tensor = tiny.predict([], convert_to_tensor=True)
    assert tensor.shape == theirs[1].predict([], convert_to_tensor=True).shape == (0,)


@pytest.mark.parametrize("labels", [1, 3])
def test_without_numpy_the_result_is_a_list_of_entries(
    ours: dict[int, CrossEncoder], theirs: dict[int, Any], labels: int
) -> None:
    entries = ours[labels].predict(PAIRS, convert_to_numpy=False)
    expected = theirs[labels].predict(list(PAIRS), convert_to_numpy=False)
    assert type(entries) is type(expected) is list
    # Entries are numpy's where sentence-transformers' are torch's: the engine has no torch.
    assert [np.shape(entry) for entry in entries] == [tuple(entry.shape) for entry in expected]
    assert_close(entries, torch.stack(expected).numpy())


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("inputs", [list(PAIRS), PAIRS[0]], ids=["many", "one"])
def test_as_a_tensor_it_is_torchs(
    ours: dict[int, CrossEncoder], theirs: dict[int, Any], labels: int, inputs: Sequence[Any]
) -> None:
    tensor = ours[labels].predict(inputs, convert_to_tensor=True, convert_to_numpy=True)
    expected = theirs[labels].predict(inputs, convert_to_tensor=True, convert_to_numpy=True)
    assert isinstance(tensor, torch.Tensor)
    assert (tensor.shape, tensor.dtype) == (expected.shape, torch.float32)
    assert_close(tensor.numpy(), expected.numpy())


@pytest.mark.parametrize(
    "activation",
    ["identity", "Identity", "torch.nn.modules.linear.Identity", torch.nn.Identity(), lambda logits: logits],
    ids=str,
)
def test_an_activation_may_be_a_name_a_function_or_a_torch_module(tiny: CrossEncoder, activation: Any) -> None:
    logits = tiny.predict(PAIRS, activation_fn=activation)
    # The model's own activation is Sigmoid; its inverse at float32 is exact to 1e-5 for logits of this size.
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), tiny.predict(PAIRS), atol=1e-6)


def test_an_activation_function_gets_all_logits_with_their_labels(ours: dict[int, CrossEncoder]) -> None:
    shapes = []

    def doubled(logits: Any) -> Any:
        shapes.append((logits.shape, logits.dtype))
        return 2 * logits

    scores = ours[3].predict(PAIRS, activation_fn=doubled)
    assert shapes == [((len(PAIRS), 3), np.float32)]
    np.testing.assert_array_equal(scores, 2 * ours[3].predict(PAIRS))


def test_the_activation_of_the_constructor_holds_for_every_call(folders: dict[int, Path]) -> None:
    plain = CrossEncoder(folders[1], device="cpu")
    logits = CrossEncoder(folders[1], device="cpu", activation_fn="identity")
    np.testing.assert_array_equal(logits.predict(PAIRS), plain.predict(PAIRS, activation_fn="identity"))
    np.testing.assert_array_equal(logits.predict(PAIRS, activation_fn="sigmoid"), plain.predict(PAIRS))
    np.testing.assert_array_equal(
        logits.score(PAIRS[0][0], ["a", "b"]), logits.predict([(PAIRS[0][0], "a"), (PAIRS[0][0], "b")])
    )


def test_older_names_of_options_still_work(tiny: CrossEncoder, theirs: dict[int, Any]) -> None:
    old = tiny.predict(sentences=PAIRS, activation_fct="identity")
    np.testing.assert_array_equal(old, tiny.predict(PAIRS, activation_fn="identity"))
    assert_close(old, theirs[1].predict(sentences=list(PAIRS), activation_fct=torch.nn.Identity()))


def test_both_names_of_an_option_are_refused(tiny: CrossEncoder) -> None:
    with pytest.raises(InputError, match="sentences is another name of inputs: pass one of them"):
        tiny.predict(PAIRS, sentences=PAIRS)
    with pytest.raises(InputError, match="activation_fct is another name of activation_fn"):
        tiny.predict(PAIRS, activation_fn="sigmoid", activation_fct="sigmoid")
    with pytest.raises(InputError, match=r"predict needs inputs: a pair \(query, document\) or a list of pairs"):
        tiny.predict()


def test_an_unknown_option_is_a_type_error(tiny: CrossEncoder) -> None:
    misspelt: Any = {"batchsize": 3}
    with pytest.raises(TypeError, match="batchsize"):
        tiny.predict(PAIRS, **misspelt)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_batch_size_does_not_change_scores(tiny: CrossEncoder, size: int) -> None:
    # 1e-6: the same float32 sums, but the matrix kernels order them by the shape of the batch.
    np.testing.assert_allclose(tiny.predict(PAIRS, batch_size=size), tiny.predict(PAIRS), atol=1e-6)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_size_below_one_is_refused_as_there(tiny: CrossEncoder, theirs: dict[int, Any], size: int) -> None:
    with pytest.raises(InputError, match=f"batch_size={size}: an integer of at least 1, or None for the planner's own"):
        tiny.predict(PAIRS, batch_size=size)
    with pytest.raises(ValueError, match="batch_size"):
        theirs[1].predict(list(PAIRS), batch_size=size)


def test_progress_is_drawn_on_standard_error_only_when_asked(
    tiny: CrossEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.predict(PAIRS)
    assert capsys.readouterr() == ("", "")
    tiny.predict(PAIRS, show_progress_bar=False)
    assert capsys.readouterr() == ("", "")
    tiny.predict(PAIRS, show_progress_bar=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{len(PAIRS)}/{len(PAIRS)} documents" in err
    assert err.endswith("\n")


def test_the_callers_pairs_stay_as_they_were(tiny: CrossEncoder) -> None:
    inputs = [list(pair) for pair in PAIRS]
    tiny.predict(inputs)
    assert inputs == [list(pair) for pair in PAIRS]


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ("query", r"inputs is str: a pair \(query, document\) or a list of pairs is needed"),
        ({"query": ["q"], "document": ["d"]}, r"inputs is dict: .* as of list\(zip\(queries, documents\)\)"),
        ({("q", "d"), ("q", "e")}, "inputs is set: a pair"),
        ([("q", "d"), {"query": "q", "document": "d"}], "pair 1 is {'query': 'q', 'document': 'd'}: two texts"),
        ([{"query": "q", "document": "d"}], "pair 0 is {'query': 'q', 'document': 'd'}: two texts"),
        ([("q", "d"), {"q", "d"}], "pair 1 is {.*}: two texts"),
        (7, "inputs is int: a pair"),
        ([("q", "d"), ("q",)], r"pair 1 is \('q',\): two texts \(query, document\) are needed"),
        ([("q", "d"), "qd"], "pair 1 is 'qd': two texts"),
        ([("q", "d"), ("q", "d", "e")], "pair 1 is .*: two texts"),
        ([("q", "d"), None], "pair 1 is None: two texts"),
        ([("q", "d"), ("q", None)], "the document of pair 1 is NoneType, not str: None"),
        ([("q", "d"), (3.5, "d")], "the query of pair 1 is float, not str: 3.5"),
        (("q", b"d"), "the document of pair 0 is bytes, not str: b'd'"),
        (["q", "d", "e"], "pair 0 is .*: two texts"),
        (["q"], "pair 0 is .*: two texts"),
        (np.array([[1, 2]]), "the query of pair 0 is int, not str: 1"),
    ],
    ids=repr,
)
def test_what_is_no_pair_of_texts_is_named_with_its_index(tiny: CrossEncoder, inputs: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        tiny.predict(inputs)


def test_input_errors_are_value_errors(tiny: CrossEncoder) -> None:
    with pytest.raises(ValueError, match="inputs is str"):
        tiny.predict("query")
    assert issubclass(InputError, crossrank.CrossrankError)


@pytest.mark.parametrize("architecture", ["roberta", "xlm-roberta", "electra", "distilbert", "camembert", "mpnet"])
def test_other_architectures_score_as_sentence_transformers(tmp_path: Path, architecture: str) -> None:
    folder = make_artifact(tmp_path, architecture, labels=2)
    theirs = sentence_transformers.CrossEncoder(str(tmp_path / "checkpoint"), device="cpu")
    assert_close(CrossEncoder(folder, device="cpu").predict(PAIRS), theirs.predict(list(PAIRS)))


def test_a_checkpoint_that_sentence_transformers_saved_scores_as_there(tmp_path: Path) -> None:
    # Since version 5.4 the activation stands in config_sentence_transformers.json only.
    plain = str(make_checkpoint(tmp_path / "plain", "bert"))
    theirs = sentence_transformers.CrossEncoder(plain, device="cpu", activation_fn=torch.nn.Identity())
    theirs.save_pretrained(str(tmp_path / "saved"))
    folder = export_model(tmp_path / "saved", tmp_path / "artifact", variants=["cpu"], precisions=["fp32"])
    assert_close(CrossEncoder(folder, device="cpu").predict(PAIRS), theirs.predict(list(PAIRS)))


def test_max_length_truncates_as_sentence_transformers(folders: dict[int, Path]) -> None:
    for max_length in (4, 5, 8, 21, 47, 48):
        theirs = sentence_transformers.CrossEncoder(
            str(folders[1].parent / "checkpoint"), device="cpu", max_length=max_length
        )
        ours = CrossEncoder(folders[1], device="cpu", max_length=max_length)
        assert_close(ours.predict(PAIRS), theirs.predict(list(PAIRS)))


def test_torch_is_named_where_it_is_missing(tiny: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # what `import torch` meets where it is not installed
    with pytest.raises(crossrank.MissingDependencyError, match="convert_to_tensor=True needs torch: pip install torch"):
        tiny.predict(PAIRS, convert_to_tensor=True)

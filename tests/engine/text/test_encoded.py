"""Documents tokenized ahead score exactly as their texts, are selected like a list, and lie safely in a folder.

Scores are compared bit for bit: the same ids make the same batches. The ids themselves are compared with transformers',
and some scores with its forward pass, within 2e-5 on logits of standard deviation 1.5 as in test_parity.py.
"""

import json
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from crossrank import ArtifactError, CrossEncoder, CrossrankError, EncodedDocuments, InputError
from crossrank._text.identity import hash_tokenizer
from crossrank.export import export_model
from tests.support.artifacts import make_artifact
from tests.support.checkpoint_files import files_of
from tests.support.foreign_graphs import foreign_folder
from tests.support.random_texts import random_text
from tests.support.tiny_models import MAX_LENGTH, PAIRS, make_checkpoint, transformers_logits, write_json

TOKENIZERS = {"bert": "WordPiece", "roberta": "BPE", "xlm-roberta": "Unigram"}
ATOL = 2e-5

QUERY = "Why is the sky red in the evening?"
LONG_QUERY = "Why is the sky red in the evening? " * 20
DOCUMENTS = [
    *(document for _, document in PAIRS),
    *(random_text(random.Random(seed), 20) for seed in range(20)),
    "",
    "👩‍👩‍👧‍👦 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "Море 東京 [SEP] </s> " * 900,  # beyond what the tokenizer is given at once
    "x" * 5000,
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make_artifact(tmp_path_factory.mktemp(name), name) for name in TOKENIZERS}


@pytest.fixture(scope="module", params=TOKENIZERS)
def each(request: pytest.FixtureRequest, folders: dict[str, Path]) -> CrossEncoder:
    return CrossEncoder(folders[request.param], device="cpu", activation_fn="identity")


@pytest.fixture(scope="module")
def model(folders: dict[str, Path]) -> CrossEncoder:
    return CrossEncoder(folders["bert"], device="cpu")


@pytest.fixture(scope="module")
def encoded(model: CrossEncoder) -> EncodedDocuments:
    return model.encode(DOCUMENTS)


def rows(documents: EncodedDocuments) -> list[list[int]]:
    return [document.ids.tolist() for document in documents]


# --- scores


@pytest.mark.parametrize("query", [QUERY, LONG_QUERY, ""], ids=["query", "overlong query", "empty query"])
def test_scores_are_those_of_the_texts_to_the_bit(each: CrossEncoder, query: str) -> None:
    encoded = each.encode(DOCUMENTS)
    assert np.array_equal(each.score(query, encoded), each.score(query, DOCUMENTS))
    assert each.rank(query, encoded, batch_size=5) == each.rank(query, DOCUMENTS, batch_size=5)
    assert each.rank(query, encoded, top_k=3) == each.rank(query, DOCUMENTS, top_k=3)
    pairs = [(QUERY if i % 3 else query, i) for i in range(len(DOCUMENTS))]
    ours = each.predict([(query, encoded[i]) for query, i in pairs])
    assert np.array_equal(ours, each.predict([(query, DOCUMENTS[i]) for query, i in pairs]))


def test_scores_are_those_of_transformers(each: CrossEncoder, folders: dict[str, Path]) -> None:
    checkpoint = each.info().folder.parent / "checkpoint"
    encoded = each.encode(document for _, document in PAIRS)
    scores = each.predict([(query, encoded[i]) for i, (query, _) in enumerate(PAIRS)])
    np.testing.assert_allclose(scores, transformers_logits(checkpoint, PAIRS)[:, 0], atol=ATOL, rtol=0)


def test_ids_are_those_of_transformers_without_special_tokens(each: CrossEncoder) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(each.info().folder.parent / "checkpoint")
    encoded = each.encode(DOCUMENTS)
    assert rows(encoded) == tokenizer(DOCUMENTS, add_special_tokens=False)["input_ids"]
    assert encoded.tokenizer.kind == TOKENIZERS[each.info().architecture]


def test_a_shorter_maximum_length_cuts_encoded_documents_too(folders: dict[str, Path], encoded: Any) -> None:
    short = CrossEncoder(folders["bert"], device="cpu", max_length=9)
    assert np.array_equal(short.score(QUERY, encoded), short.score(QUERY, DOCUMENTS))


def test_more_documents_than_are_planned_or_tokenized_at_once(model: CrossEncoder) -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices(DOCUMENTS[0].split(), k=rng.randint(0, 4))) for _ in range(5000)]
    encoded = model.encode(text for text in texts)
    assert np.array_equal(model.score("ship", encoded), model.score("ship", texts))
    assert np.array_equal(model.score("ship", encoded[100:4999]), model.score("ship", texts[100:4999]))


def test_texts_and_encoded_documents_mix(model: CrossEncoder, encoded: EncodedDocuments) -> None:
    mixed = [encoded[i] if i % 3 else text for i, text in enumerate(DOCUMENTS)]
    assert np.array_equal(model.score(QUERY, mixed), model.score(QUERY, DOCUMENTS))
    assert model.rank(QUERY, mixed) == model.rank(QUERY, DOCUMENTS)
    pairs = [(QUERY, document) for document in mixed]
    expected = model.predict([(QUERY, text) for text in DOCUMENTS])
    assert np.array_equal(model.predict(pairs), expected)
    array: Any = np.array(pairs, dtype=object)
    assert np.array_equal(model.predict(array), expected)


def test_one_pair_gives_one_score(model: CrossEncoder, encoded: EncodedDocuments) -> None:
    assert model.predict((QUERY, encoded[3])) == model.predict((QUERY, DOCUMENTS[3]))


def test_two_label_models_take_them_too(tmp_path: Path) -> None:
    two = CrossEncoder(make_artifact(tmp_path, labels=2), device="cpu", relevant_label=1)
    encoded = two.encode(DOCUMENTS)
    assert np.array_equal(two.score(QUERY, encoded), two.score(QUERY, DOCUMENTS))


def test_threads_may_share_documents_while_others_are_encoded(model: CrossEncoder, encoded: EncodedDocuments) -> None:
    def work(i: int) -> bool:
        if i % 4 == 0:
            return rows(model.encode(DOCUMENTS[i:])) == rows(encoded[i:])
        # 1e-5: several callers' pairs join into other batches.
        return np.allclose(model.score(QUERY, encoded[i:]), model.score(QUERY, DOCUMENTS[i:]), atol=1e-5)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(16)))


def test_no_documents_give_no_scores(model: CrossEncoder) -> None:
    empty = model.encode([])
    assert len(empty) == 0
    assert model.score(QUERY, empty).shape == (0,)
    assert model.rank(QUERY, empty, return_documents=True) == []


# --- what is refused


def test_texts_are_not_kept(model: CrossEncoder, encoded: EncodedDocuments) -> None:
    mixed: list[Any] = ["text", encoded[0]]
    for documents in (encoded, mixed):
        with pytest.raises(InputError, match="encoded documents keep no texts; take yours at each entry's corpus_id"):
            model.rank(QUERY, documents, return_documents=True)


def test_what_is_no_text_is_named_with_its_index(model: CrossEncoder, encoded: EncodedDocuments) -> None:
    with pytest.raises(InputError, match="document 4100 is NoneType, not str"):
        model.encode(text if i != 4100 else None for i, text in enumerate(["a"] * 4200))  # type: ignore[misc]
    with pytest.raises(InputError, match="document 2 is int, not str"):
        model.score(QUERY, [encoded[0], "text", 3])  # type: ignore[list-item]
    with pytest.raises(InputError, match="document 1 holds a lone surrogate"):
        model.score(QUERY, [encoded[0], "\ud800"])
    with pytest.raises(InputError, match="query of pair 0 is EncodedDocument, not str"):
        model.predict([(encoded[0], encoded[1])])
    with pytest.raises(InputError, match="document of pair 0 is EncodedDocuments, not str"):
        model.predict([(QUERY, encoded[:1])])
    with pytest.raises(InputError, match="document 0 is EncodedDocument, not str"):
        model.encode(encoded)  # type: ignore[arg-type]


@pytest.mark.parametrize("texts", ["text", b"text", {"a": "b"}, {"a"}, None, 3])
def test_what_is_no_list_of_texts_is_refused(model: CrossEncoder, texts: Any) -> None:
    with pytest.raises(InputError, match="documents is"):
        model.encode(texts)


# --- whose ids they are


def test_another_tokenizer_is_refused_with_both_and_the_remedy(folders: dict[str, Path], encoded: Any) -> None:
    other = CrossEncoder(folders["roberta"], device="cpu")
    calls: list[Callable[[], object]] = [
        lambda: other.score(QUERY, encoded),
        lambda: other.rank(QUERY, ["text", encoded[0]]),
        lambda: other.predict([(QUERY, "text"), (QUERY, encoded[0])]),
        lambda: EncodedDocuments.concatenate([other.encode(["a"]), encoded]),
    ]
    for call in calls:
        with pytest.raises(InputError) as caught:
            call()
        message = str(caught.value)
        for part in ("(WordPiece, 246 tokens, sha256", "(BPE, 400 tokens, sha256", "encode their texts with the model"):
            assert part in message


def test_models_with_one_tokenizer_share_documents(tmp_path: Path, encoded: EncodedDocuments) -> None:
    checkpoint = make_checkpoint(tmp_path / "other-weights", "bert", seed=1)
    other = CrossEncoder(export_model(checkpoint, tmp_path / "artifact", variants=["cpu"]), device="cpu")
    assert np.array_equal(other.score(QUERY, encoded), other.score(QUERY, DOCUMENTS))


def test_a_foreign_onnx_folder_shares_them_too(folders: dict[str, Path], tmp_path: Path, encoded: Any) -> None:
    folder = foreign_folder(folders["bert"].parent / "checkpoint", tmp_path / "foreign", precisions=["fp32"])
    for place in (folder, folder / "onnx" / "model.onnx"):
        foreign = CrossEncoder(place, device="cpu")
        assert np.array_equal(foreign.score(QUERY, encoded), foreign.score(QUERY, DOCUMENTS))


def test_a_tokenizer_built_of_vocab_txt_has_an_identity(folders: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(folders["bert"].parent / "checkpoint", checkpoint)
    vocabulary = json.loads((checkpoint / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    (checkpoint / "tokenizer.json").unlink()
    (checkpoint / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)), encoding="utf-8")
    first, second = (
        CrossEncoder(export_model(checkpoint, tmp_path / name, variants=["cpu"], precisions=["fp32"]), device="cpu")
        for name in ("first", "second")
    )
    encoded = first.encode(DOCUMENTS)
    assert np.array_equal(second.score(QUERY, encoded), second.score(QUERY, DOCUMENTS))


PADDING = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
SAME: dict[str, Callable[[dict[str, Any]], Any]] = {
    "layout": lambda content: dict(reversed(content.items())),
    "padding": lambda content: content | {"padding": PADDING},
    "truncation": lambda content: content | {"truncation": {"max_length": 128, "strategy": "LongestFirst"}},
    "decoder": lambda content: content | {"decoder": None},
}
OTHER: dict[str, Callable[[dict[str, Any]], Any]] = {
    "lower-casing": lambda content: content | {"normalizer": content["normalizer"] | {"lowercase": False}},
    "added tokens": lambda content: content | {"added_tokens": content["added_tokens"][:-1]},
    "vocabulary": lambda content: content | {"model": content["model"] | {"vocab": {}}},
    "pre-tokenizer": lambda content: content | {"pre_tokenizer": {"type": "Whitespace"}},
}


@pytest.mark.parametrize("change", SAME | OTHER)
def test_the_identity_is_what_ids_hang_on(folders: dict[str, Path], tmp_path: Path, change: str) -> None:
    path = folders["bert"] / "tokenizer.json"
    write_json(tmp_path / "tokenizer.json", (SAME | OTHER)[change](json.loads(path.read_text("utf-8"))))
    assert (hash_tokenizer(tmp_path / "tokenizer.json") == hash_tokenizer(path)) == (change in SAME)


def test_a_tokenizer_that_changed_under_a_loaded_model_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["bert"], tmp_path / "artifact")
    model = CrossEncoder(tmp_path / "artifact", device="cpu")
    shutil.copyfile(folders["roberta"] / "tokenizer.json", tmp_path / "artifact" / "tokenizer.json")
    with pytest.raises(
        ArtifactError, match=r"tokenizer\.json was replaced since the model was loaded; load the model again"
    ):
        model.encode(["text"])


# --- selection

SELECTED = st.one_of(
    st.slices(len(DOCUMENTS)),
    st.lists(st.integers(-len(DOCUMENTS), len(DOCUMENTS) - 1)),
    st.lists(st.booleans(), min_size=len(DOCUMENTS), max_size=len(DOCUMENTS)),
)


@given(which=SELECTED, as_array=st.booleans())
def test_parts_are_the_same_as_of_a_list(encoded: EncodedDocuments, which: Any, as_array: bool) -> None:
    everything = rows(encoded)
    if isinstance(which, slice):
        expected = everything[which]
    elif which and isinstance(which[0], bool):
        expected = [row for row, wanted in zip(everything, which, strict=True) if wanted]
    else:
        expected = [everything[i] for i in which]
    part = encoded[np.array(which) if as_array and which and not isinstance(which, slice) else which]
    assert rows(part) == expected
    assert part.lengths.tolist() == [len(row) for row in expected]
    # A part of a part, whose offsets do not begin at those of the whole.
    assert rows(part[1:-1]) == expected[1:-1]
    assert rows(part[::-2]) == expected[::-2]


def test_parts_score_as_the_same_texts(model: CrossEncoder, encoded: EncodedDocuments) -> None:
    for which in (slice(3, 30), slice(None, None, -3), [7, 2, 7, -1], [], np.arange(len(DOCUMENTS)) % 3 == 0):
        texts = np.array(DOCUMENTS, dtype=object)[which].tolist()
        assert np.array_equal(model.score(QUERY, encoded[which]), model.score(QUERY, texts))


def test_one_document_is_found_by_any_integer(encoded: EncodedDocuments) -> None:
    indices: list[Any] = [3, -3, np.int64(3), np.uint8(3), np.array(3)]
    for index in indices:
        assert encoded[index].ids.tolist() == rows(encoded)[int(index)]


def test_an_index_outside_is_an_error_as_of_a_list(encoded: EncodedDocuments) -> None:
    count = len(encoded)
    for which in (count, -count - 1, [0, count], np.array([-count - 1]), np.array([2**63], np.uint64)):
        with pytest.raises(IndexError, match=f"of {count}"):
            encoded[which]


@pytest.mark.parametrize(
    "which", ["3", 1.5, None, True, [1.5], ["1"], [[1], [2]], [[1], [2, 3]], [None], np.array(1.0)]
)
def test_what_selects_nothing_is_refused(encoded: EncodedDocuments, which: Any) -> None:
    with pytest.raises(InputError, match=r"an index, a slice, or a list of indices or bools is needed"):
        encoded[which]


def test_a_mask_of_another_length_is_refused(encoded: EncodedDocuments) -> None:
    with pytest.raises(InputError, match="got 2 bools for"):
        encoded[[True, False]]


def test_concatenated_documents_are_one_after_the_other(model: CrossEncoder, encoded: EncodedDocuments) -> None:
    both = EncodedDocuments.concatenate([encoded[5:], encoded[:0], encoded[[4, 2]], model.encode([])])
    assert rows(both) == rows(encoded[5:]) + rows(encoded[[4, 2]])
    refused: list[list[Any]] = [[], [encoded, "text"]]
    for parts in refused:
        with pytest.raises(InputError, match="concatenate needs a list of EncodedDocuments, at least one"):
            EncodedDocuments.concatenate(parts)


def test_a_slice_shares_the_ids_and_nothing_can_be_written(encoded: EncodedDocuments, tmp_path: Path) -> None:
    encoded.save(tmp_path / "saved")
    for documents in (encoded, EncodedDocuments.load(tmp_path / "saved")):
        assert np.shares_memory(documents.tokens.ids, documents[2:30][1:].tokens.ids)
        for part in (documents, documents[2:], documents[[1, 2]], pickle.loads(pickle.dumps(documents[2:]))):
            for array in (part.tokens.ids, part.tokens.offsets, part[0].ids):
                with pytest.raises(ValueError, match="read-only"):
                    array[:1] = 0
        with pytest.raises(AttributeError):
            documents.tokens = None  # type: ignore[misc,assignment]


def test_a_pickle_holds_a_parts_own_ids_only(model: CrossEncoder, encoded: EncodedDocuments) -> None:
    part = pickle.loads(pickle.dumps(encoded[:5]))
    assert np.array_equal(model.score(QUERY, part), model.score(QUERY, DOCUMENTS[:5]))
    assert len(pickle.dumps(encoded[:5])) < len(pickle.dumps(encoded)) / 5
    assert model.predict((QUERY, pickle.loads(pickle.dumps(encoded[3])))) == model.predict((QUERY, DOCUMENTS[3]))


# --- folders


@pytest.mark.parametrize("texts", [DOCUMENTS, [], ["", ""], [""] * 5000], ids=["all", "none", "empty", "many empty"])
@pytest.mark.parametrize("streamed", [False, True], ids=["saved", "streamed"])
def test_a_folder_gives_back_what_was_written(
    model: CrossEncoder, tmp_path: Path, texts: list[str], streamed: bool
) -> None:
    folder = tmp_path / "new" / "documents"
    expected = model.encode(texts)
    if streamed:
        model.encode(iter(texts), folder=folder)
    else:
        expected.save(str(folder))
    loaded = EncodedDocuments.load(folder)
    assert rows(loaded) == rows(expected)
    assert np.array_equal(model.score(QUERY, loaded), model.score(QUERY, texts))
    assert files_of(tmp_path) == {f"new/documents/{name}" for name in ("encoded.json", "ids.npy", "offsets.npy")}
    assert list(folder.parent.iterdir()) == [folder]


def test_loaded_ids_stay_in_their_file(model: CrossEncoder, tmp_path: Path) -> None:
    loaded = model.encode(DOCUMENTS, folder=tmp_path / "documents")
    for array in (loaded.tokens.ids, loaded[3:7].tokens.ids, loaded.tokens.offsets):
        base: Any = array
        while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap)


def test_numpy_reads_the_files(encoded: EncodedDocuments, tmp_path: Path) -> None:
    encoded.save(tmp_path / "documents")
    ids, offsets = (np.load(tmp_path / "documents" / f"{name}.npy") for name in ("ids", "offsets"))
    assert [ids[a:b].tolist() for a, b in pairwise(offsets)] == rows(encoded)


class _Counted(str):
    """A text that knows how many of its kind there are."""

    alive: ClassVar[int] = 0

    def __new__(cls, text: str) -> "_Counted":
        cls.alive += 1
        return super().__new__(cls, text)

    def __del__(self) -> None:
        type(self).alive -= 1


@pytest.mark.parametrize("to_folder", [False, True])
def test_a_stream_of_texts_is_not_kept(model: CrossEncoder, tmp_path: Path, to_folder: bool) -> None:
    most = 0

    def texts() -> Iterator[str]:
        nonlocal most
        for i in range(20_000):
            yield _Counted("ship" if i % 2 else "")
            most = max(most, _Counted.alive)

    encoded = model.encode(texts(), folder=tmp_path / "documents" if to_folder else None)
    assert len(encoded) == 20_000
    assert most <= 2 * 4096 + 2


def test_progress_is_drawn_when_asked(model: CrossEncoder, capsys: pytest.CaptureFixture[str]) -> None:
    model.encode(DOCUMENTS)
    model.encode(iter(DOCUMENTS), show_progress_bar=True)  # of how many is not known
    assert capsys.readouterr().err == ""
    model.encode(DOCUMENTS, show_progress_bar=True)
    assert f"{len(DOCUMENTS)}/{len(DOCUMENTS)} documents" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError("the source"), KeyboardInterrupt(), InputError("of a text")], ids=repr)
@pytest.mark.parametrize("older", [False, True], ids=["new", "replaced"])
def test_a_stream_that_fails_leaves_what_was_there(
    model: CrossEncoder, encoded: EncodedDocuments, tmp_path: Path, error: BaseException, older: bool
) -> None:
    def texts() -> Iterator[str]:
        yield from ["text"] * 9000
        raise error

    folder = tmp_path / "documents"
    if older:
        encoded.save(folder)
    with pytest.raises(type(error)) as caught:
        model.encode(texts(), folder=folder)
    assert caught.value is error
    assert list(tmp_path.iterdir()) == [folder] * older
    if older:
        assert rows(EncodedDocuments.load(folder)) == rows(encoded)


def test_a_folder_of_documents_is_replaced_while_it_is_read(encoded: EncodedDocuments, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    encoded.save(folder)
    older = EncodedDocuments.load(folder)
    older[:5].save(folder)
    assert rows(EncodedDocuments.load(folder)) == rows(encoded[:5])
    assert rows(older) == rows(encoded)
    assert list(tmp_path.iterdir()) == [folder]


def test_of_several_that_write_one_folder_one_is_there_whole(encoded: EncodedDocuments, tmp_path: Path) -> None:
    folder = tmp_path / "documents"

    def save(count: int) -> None:
        with suppress(InputError):  # another one was faster between two steps
            encoded[:count].save(folder)

    encoded.save(folder)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(save, range(1, 33)))
    assert rows(EncodedDocuments.load(folder)) in [rows(encoded[:count]) for count in (*range(1, 33), len(encoded))]
    assert list(tmp_path.iterdir()) == [folder]


def test_only_a_folder_of_documents_is_replaced(encoded: EncodedDocuments, model: CrossEncoder, tmp_path: Path) -> None:
    for name in ("file", "folder/notes.txt", "documents/notes.txt", "parent"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
    encoded.save(tmp_path / "documents")
    for name in ("file", "folder/notes.txt", "documents/notes.txt"):
        (tmp_path / name).write_text("mine", encoding="utf-8")
    before = files_of(tmp_path)
    for name, message in (
        ("file", "exists and is no folder of encoded documents: choose another folder"),
        ("folder", "exists and is no folder of encoded documents: choose another folder"),
        ("documents", "holds what is no part of encoded documents and would be lost: notes.txt"),
        ("file/below", "cannot be written: "),
    ):
        for write in (encoded.save, lambda folder: model.encode(iter([None]), folder=folder)):  # type: ignore[arg-type]
            with pytest.raises(InputError, match=message):
                write(tmp_path / name)
    assert files_of(tmp_path) == before
    (tmp_path / "empty").mkdir()
    encoded.save(tmp_path / "empty")
    assert rows(EncodedDocuments.load(tmp_path / "empty")) == rows(encoded)


def _edit(name: str, change: Callable[[Any], Any]) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        path = folder / name
        if path.suffix == ".npy":
            np.save(path, change(np.load(path)), allow_pickle=True)
        else:
            write_json(path, change(json.loads(path.read_text("utf-8"))))

    return edit


def _swap(offsets: Any) -> Any:
    offsets[[1, 3]] = offsets[[3, 1]]
    return offsets


DAMAGE: dict[str, tuple[Callable[[Path], object], type[CrossrankError], str]] = {
    "no folder": (shutil.rmtree, InputError, "is no folder of encoded documents: it has no encoded.json"),
    "no json": (lambda f: (f / "encoded.json").unlink(), InputError, "it has no encoded.json"),
    "broken json": (lambda f: (f / "encoded.json").write_text("{"), ArtifactError, "encode the texts again"),
    "json list": (lambda f: (f / "encoded.json").write_text("[]"), ArtifactError, "a JSON object is needed"),
    "newer": (
        _edit("encoded.json", lambda about: about | {"format": 2}),
        ArtifactError,
        "this crossrank reads up to 1",
    ),
    "fields": (_edit("encoded.json", lambda _: {"format": 1, "tokens": "3"}), ArtifactError, "4 problems"),
    "tokenizer": (_edit("encoded.json", lambda a: a | {"tokenizer": {}}), ArtifactError, "tokenizer.sha256 is missing"),
    "count": (_edit("encoded.json", lambda a: a | {"documents": 7}), ArtifactError, r"encoded.json says int64 \[8\]"),
    "below": (_edit("encoded.json", lambda a: a | {"documents": -1}), ArtifactError, r"encoded.json says int64 \[0\]"),
    "no ids": (lambda f: (f / "ids.npy").unlink(), ArtifactError, "ids.npy is missing or cut off"),
    "no offsets": (lambda f: (f / "offsets.npy").unlink(), ArtifactError, "offsets.npy is missing or cut off"),
    "cut off": (
        lambda f: (f / "ids.npy").write_bytes((f / "ids.npy").read_bytes()[:-1]),
        ArtifactError,
        "ids.npy is missing or cut off",
    ),
    "longer": (
        lambda f: (f / "ids.npy").write_bytes((f / "ids.npy").read_bytes() + b"1"),
        ArtifactError,
        "ids.npy has .* bytes, .* are expected",
    ),
    "empty": (lambda f: (f / "ids.npy").write_bytes(b""), ArtifactError, "ids.npy is missing or cut off"),
    "no npy": (lambda f: (f / "ids.npy").write_text("x" * 999), ArtifactError, "ids.npy is missing or cut off"),
    "int64 ids": (_edit("ids.npy", lambda ids: ids.astype(np.int64)), ArtifactError, r"ids.npy is int64 \["),
    "objects": (_edit("ids.npy", lambda ids: ids.astype(object)), ArtifactError, "ids.npy is missing or cut off"),
    "2-D": (_edit("ids.npy", lambda ids: ids[None]), ArtifactError, r"ids.npy is int32 \[1, "),
    "order": (_edit("offsets.npy", _swap), ArtifactError, "offsets.npy does not rise from 0"),
    "start": (_edit("offsets.npy", lambda o: np.maximum(o, 1)), ArtifactError, "offsets.npy does not rise from 0"),
    "end": (
        _edit("offsets.npy", lambda o: np.minimum(o, o[-1] - 1)),
        ArtifactError,
        "offsets.npy does not rise from 0",
    ),
    "beyond": (_edit("offsets.npy", lambda o: o * 2), ArtifactError, "offsets.npy does not rise from 0"),
    "below 0": (_edit("offsets.npy", lambda o: o - 9), ArtifactError, "offsets.npy does not rise from 0"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_on_load(encoded: EncodedDocuments, tmp_path: Path, damage: str) -> None:
    change, error, message = DAMAGE[damage]
    encoded.save(tmp_path / "documents")
    change(tmp_path / "documents")
    with pytest.raises(error, match=message):
        EncodedDocuments.load(tmp_path / "documents")


def test_all_problems_are_named_at_once(encoded: EncodedDocuments, tmp_path: Path) -> None:
    encoded.save(tmp_path / "documents")
    for name in ("ids.npy", "offsets.npy"):
        (tmp_path / "documents" / name).unlink()
    with pytest.raises(ArtifactError, match="2 problems") as caught:
        EncodedDocuments.load(tmp_path / "documents")
    assert "Encode the texts again, or copy the folder again." in str(caught.value)


@pytest.mark.parametrize("bad", [-1, 246, 2**31 - 1])
def test_ids_that_the_tokenizer_does_not_have_are_refused_where_they_are_scored(
    model: CrossEncoder, encoded: EncodedDocuments, tmp_path: Path, bad: int
) -> None:
    encoded.save(tmp_path / "documents")
    where = int(encoded.tokens.offsets[4])

    def change(ids: Any) -> Any:
        ids[where] = bad
        return ids

    _edit("ids.npy", change)(tmp_path / "documents")
    loaded = EncodedDocuments.load(tmp_path / "documents")
    calls: list[Callable[[], object]] = [
        lambda: model.score(QUERY, loaded),
        lambda: model.predict((QUERY, loaded[4])),
    ]
    for call in calls:
        with pytest.raises(
            ArtifactError, match="the tokenizer has 0 to 245: their folder is damaged, encode the texts"
        ):
            call()
    assert np.array_equal(model.score(QUERY, loaded[:4]), model.score(QUERY, DOCUMENTS[:4]))


def test_what_they_are_can_be_read(encoded: EncodedDocuments, model: CrossEncoder) -> None:
    start = (
        f"<EncodedDocuments: {len(DOCUMENTS)} documents, {len(encoded.tokens.ids):,} tokens of checkpoint (WordPiece"
    )
    assert repr(encoded).startswith(start)
    assert repr(encoded[0]).startswith("<EncodedDocument: ")
    assert model.info().max_length == MAX_LENGTH < encoded.lengths.max()

"""The compiled kernels against their references: each kernel, and the whole forward pass against onnxruntime."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from crossrank.export import export_model
from tests.support.compiled_kernels import ROOT, built, float_layers, initializers, kernels, needs_instructions
from tests.support.tiny_models import make_checkpoint

ARCHITECTURES = ("bert", "electra", "roberta", "xlm-roberta", "camembert", "distilbert")
# Of the four layers of such a model: what stays in float beside the last one, or with it.
FLOATS = [(0,), (1, 2), (0, 1, 2), (2, 3)]
Batch = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]


class Artifact:
    """An int8 graph, and its settings as the graph's nodes say them."""

    def __init__(self, path: Path) -> None:
        self.path, self.tensors = path, initializers(path)
        nodes = list(onnx.load(path).graph.node)
        ops = [node.op_type for node in nodes]
        (self.epsilon,) = {
            a.f for n in nodes if n.op_type == "LayerNormalization" for a in n.attribute if a.name == "epsilon"
        }
        self.has_types = "token_type_ids" in {name for node in nodes for name in node.input}
        # RoBERTa's kind counts the tokens that are no padding, whose id is added to what it counts.
        added = {f"integers_{i}": i for i in range(10)}
        counting = [node for node in nodes if node.op_type == "CumSum"]
        pads = [added[name] for node in nodes if node.op_type == "Equal" for name in node.input if name in added]
        self.pad_id = pads[0] if counting else None
        last = nodes[len(nodes) - 8 :]
        heads = {"Tanh": "tanh", "Relu": "relu", "Gelu": "gelu"}
        self.head = next((heads[node.op_type] for node in last if node.op_type in heads), "identity")
        assert "Gelu" in ops
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def model(self, *, reference: bool = False) -> Any:
        settings = {"epsilon": self.epsilon, "head_activation": self.head, "pad_id": self.pad_id}
        return kernels(reference=reference).Model(self.tensors, **settings)

    def expected(self, batch: Batch) -> NDArray[np.float32]:
        """onnxruntime's logits, pair by pair."""
        rows = []
        ids, types, lengths = batch
        for end, length in zip(np.cumsum(lengths), lengths, strict=True):
            feed = {"input_ids": ids[None, end - length : end]}
            if self.has_types:
                feed["token_type_ids"] = types[None, end - length : end]
            rows.append(self.session.run(["logits"], feed)[0][0])
        return np.array(rows, np.float32)

    def batch(self, lengths: list[int], seed: int = 0) -> Batch:
        rng = np.random.default_rng(seed)
        tokens = sum(lengths)
        ids = rng.integers(5, len(self.tensors["embeddings.words.int8"]), tokens).astype(np.int32)
        types = rng.integers(0, 2, tokens).astype(np.int32) if self.has_types else np.zeros(tokens, np.int32)
        return ids, types, np.array(lengths, np.int32)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[tuple[Any, ...], Artifact] = {}

    def make(architecture: str = "bert", floats: tuple[int, ...] = (), **sizes: Any) -> Artifact:
        """An architecture's artifact, of four layers where some are in float."""
        sizes = ({"embedding_size": 32} if architecture == "electra" else {}) | sizes  # as wide as its layers
        if floats:
            sizes = {"n_layers" if architecture == "distilbert" else "num_hidden_layers": 4} | sizes
        key = (architecture, floats, *sorted(sizes.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("artifact")
            make_checkpoint(folder / "checkpoint", architecture, **sizes)
            with float_layers(*floats):
                export_model(folder / "checkpoint", folder / "artifact", variants=["cpu"], precisions=["int8"])
            made[key] = Artifact(folder / "artifact" / "onnx" / "model_cpu_int8.onnx")
        return made[key]

    return make


def test_each_kernel_gives_what_its_reference_gives_and_touches_nothing_else() -> None:
    needs_instructions()
    done = subprocess.run([built() / "check", "128"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_each_kernel_gives_what_its_reference_gives_at_all_lengths() -> None:
    needs_instructions()
    for seed in range(3):
        done = subprocess.run([built() / "check", "600", str(seed)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_sanitizers_find_nothing(artifact: Any) -> None:
    needs_instructions()
    flags = "-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all"
    folder = built(flags=flags, kind="None")
    done = subprocess.run([folder / "check", "100"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # And the whole library in a Python that the sanitizer is loaded into.
    asan = subprocess.run(["c++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.support import compiled_kernels as support\n"
        f"support.built = lambda: Path({str(folder)!r})\n"
        "from tests.engine.kernels.test_kernels_library import Artifact, fuzz\n"
        "for path in sys.argv[1:]: fuzz(Artifact(Path(path)), batches=300)\n"
    )
    environment = {**os.environ, "LD_PRELOAD": asan.strip(), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(artifact("bert").path), str(artifact("bert", (0, 2)).path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_plain_kernels_give_the_graphs_logits(artifact: Any, architecture: str) -> None:
    made = artifact(architecture)
    batch = made.batch([1, 2, 7, 16, 17, 33, 40])
    found = made.model(reference=True).run(*batch)
    # A float that lies between two bytes may fall to either: of tiny models, a step moves a logit by 0.01.
    np.testing.assert_allclose(found, made.expected(batch), atol=0.05)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fast_kernels_give_the_graphs_logits(artifact: Any, architecture: str) -> None:
    needs_instructions()
    made = artifact(architecture)
    batch = made.batch([1, 2, 7, 16, 17, 33, 40])
    np.testing.assert_allclose(made.model().run(*batch), made.expected(batch), atol=0.2)  # bfloat16, of logits up to 15


@pytest.mark.parametrize("floats", FLOATS)
@pytest.mark.parametrize("reference", [True, False], ids=["plain", "fast"])
def test_layers_in_float_give_the_graphs_logits(artifact: Any, floats: tuple[int, ...], reference: bool) -> None:
    if not reference:
        needs_instructions()
    made = artifact("bert", floats)
    assert [f"layer.{i}.query.weight" in made.tensors for i in range(3)] == [i in floats for i in range(3)]
    batch = made.batch([1, 2, 7, 16, 17, 33, 40])
    error = np.abs(made.model(reference=reference).run(*batch) - made.expected(batch))
    assert error.max() < 0.5  # of logits up to 6: what bfloat16 rounds may fall to another byte behind it
    assert error.mean() < 0.1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_may_have_layers_in_float(artifact: Any, architecture: str) -> None:
    needs_instructions()
    made = artifact(architecture, (0, 2))
    batch = made.batch([1, 2, 7, 16, 17, 33, 40])
    np.testing.assert_allclose(made.model().run(*batch), made.expected(batch), atol=0.5)


def test_a_layer_that_is_in_float_by_half_is_refused(artifact: Any) -> None:
    library, made = kernels(reference=True), artifact("bert", (0,))
    tensors = dict(made.tensors)
    for part in ("int8", "scales"):
        del tensors[f"layer.1.up.{part}"]
    tensors["layer.1.up.weight"] = tensors["layer.0.up.weight"]
    with pytest.raises(
        library.ModelError, match=r"layer\.1\.up\.int8 is missing.*layer\.1\.up\.weight is none of a model"
    ):
        library.Model(tensors, epsilon=made.epsilon)
    del tensors["layer.0.output.weight"]
    tensors["layer.0.down.scale"] = np.float32(0.1)
    with pytest.raises(
        library.ModelError, match=r"layer\.0\.output\.weight\.int8 is missing.*layer\.0\.down\.scale is none"
    ):
        library.Model(tensors, epsilon=made.epsilon)


@pytest.mark.slow
def test_pairs_of_every_length_have_the_logits_that_they_have_alone(artifact: Any) -> None:
    needs_instructions()
    made = artifact("bert", (0, 2), max_length=512)
    model, batch = made.model(), made.batch(list(range(1, 513)))
    found = model.run(*batch, threads=2)
    np.testing.assert_allclose(found, made.expected(batch), atol=0.5)
    ids, types, lengths = batch
    for row, end, length in zip(found, np.cumsum(lengths), lengths, strict=True):
        part = slice(end - length, end)
        np.testing.assert_array_equal(row, model.run(ids[part], types[part], np.array([length], np.int32))[0])


@pytest.mark.parametrize("floats", [(), (0, 2)], ids=["int8", "with layers in float"])
@pytest.mark.parametrize(
    "sizes",
    [
        {"labels": 2},
        {"hidden_size": 52, "num_attention_heads": 2},
        {"hidden_size": 15, "num_attention_heads": 3, "intermediate_size": 33},
    ],
    ids=["labels", "heads of 26", "odd ones"],
)
def test_other_shapes_give_the_graphs_logits(artifact: Any, sizes: dict[str, Any], floats: tuple[int, ...]) -> None:
    needs_instructions()
    made = artifact("bert", floats, **sizes)
    batch = made.batch([5, 48, 19])
    found = made.model().run(*batch)
    assert found.shape == made.expected(batch).shape
    np.testing.assert_allclose(found, made.expected(batch), atol=0.2)


def test_padding_ids_count_as_in_the_graph(artifact: Any) -> None:
    needs_instructions()
    made = artifact("roberta")
    ids, types, lengths = made.batch([9, 12])
    ids[[3, 4, 15]] = made.pad_id
    found = made.model().run(ids, types, lengths)
    np.testing.assert_allclose(found, made.expected((ids, types, lengths)), atol=0.1)


def fuzz(made: Artifact, batches: int) -> None:
    """Random batches: each pair has the logits that it has alone, to the bit, on one thread or several."""
    model, rng = made.model(), np.random.default_rng(batches)
    alone: dict[bytes, NDArray[np.float32]] = {}
    for seed in range(batches):
        lengths = rng.integers(1, 49, rng.integers(1, 9)).tolist()
        ids, types, counts = made.batch(lengths, seed % 50)
        found = model.run(ids, types, counts, threads=int(rng.integers(1, 4)))
        ends = np.cumsum(counts)
        for row, (end, length) in zip(found, zip(ends, counts, strict=True), strict=True):
            part = slice(end - length, end)
            key = ids[part].tobytes() + types[part].tobytes()
            if key not in alone:
                alone[key] = model.run(ids[part], types[part], np.array([length], np.int32))[0]
            np.testing.assert_array_equal(row, alone[key])


@pytest.mark.parametrize("floats", [(), (0, 2)], ids=["int8", "with layers in float"])
def test_a_pairs_logits_are_the_same_in_any_batch(artifact: Any, floats: tuple[int, ...]) -> None:
    needs_instructions()
    fuzz(artifact("bert", floats), batches=300)


@pytest.mark.slow
@pytest.mark.parametrize("floats", [(), (0, 2)], ids=["int8", "with layers in float"])
def test_random_batches_give_the_graphs_logits(artifact: Any, floats: tuple[int, ...]) -> None:
    needs_instructions()
    made = artifact("bert", floats)
    model, rng, worst = made.model(), np.random.default_rng(1), 0.0
    for seed in range(10_000):
        batch = made.batch(rng.integers(1, 49, rng.integers(1, 6)).tolist(), seed)
        worst = max(worst, float(np.abs(model.run(*batch) - made.expected(batch)).max()))
    assert worst < (0.8 if floats else 0.3)
    fuzz(made, batches=2_000)


def test_threads_share_a_model(artifact: Any) -> None:
    needs_instructions()
    made = artifact("bert")
    model, batches = made.model(), [made.batch([3 + i, 20, 48 - i], i) for i in range(8)]
    expected = [model.run(*batch) for batch in batches]
    wrong: list[int] = []

    def work(i: int) -> None:
        wrong.extend(i for _ in range(50) if not np.array_equal(model.run(*batches[i]), expected[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_is_missing_or_misshapen_is_named_all_at_once(artifact: Any) -> None:
    library = kernels(reference=True)
    made = artifact("bert")
    tensors = dict(made.tensors)
    del tensors["layer.0.output.int8"]
    tensors["layer.0.up.scales"] = tensors["layer.0.up.scales"][1:]
    tensors["embeddings.norm.bias"] = tensors["embeddings.norm.bias"].astype(np.int8)
    tensors["layer.0.gate.int8"] = tensors["layer.0.up.int8"]
    with pytest.raises(library.ModelError) as raised:
        library.Model(tensors, epsilon=1e-12)
    message = str(raised.value)
    assert "layer.0.output.int8 is missing" in message
    assert "layer.0.up.scales has shape" in message
    assert "embeddings.norm.bias has shape" in message
    assert "layer.0.gate.int8 is none of a model of the BERT kind" in message


def test_embeddings_narrower_than_the_layers_are_refused(artifact: Any) -> None:
    library, made = kernels(reference=True), artifact("electra", embedding_size=24)
    with pytest.raises(library.ModelError, match=r"embeddings\.projection\.weight is none of a model of the BERT kind"):
        made.model(reference=True)


@pytest.mark.parametrize("architecture", ["mpnet", "deberta-v2", "gte"])
def test_models_of_other_kinds_are_refused(artifact: Any, tmp_path: Path, architecture: str) -> None:
    make_checkpoint(tmp_path / "checkpoint", architecture)
    export_model(tmp_path / "checkpoint", tmp_path / "artifact", variants=["cpu"], precisions=["int8"])
    tensors = initializers(tmp_path / "artifact" / "onnx" / "model_cpu_int8.onnx")
    library = kernels(reference=True)
    with pytest.raises(library.ModelError, match=r"is none of a model|is missing"):
        library.Model(tensors, epsilon=1e-12)


def test_ids_types_and_positions_that_a_model_lacks_are_named(artifact: Any) -> None:
    library, made = kernels(reference=True), artifact("bert")
    model, (ids, types, lengths) = made.model(reference=True), made.batch([4, 5])
    cases: list[tuple[NDArray[np.int32], NDArray[np.int32], list[int], str]] = [
        (np.where(np.arange(9) == 6, 1 << 30, ids), types, [4, 5], "id 1073741824 of token 6 in pair 1"),
        (np.where(np.arange(9) == 2, -1, ids), types, [4, 5], "id -1 of token 2 in pair 0"),
        (ids, np.where(np.arange(9) == 8, 7, types), [4, 5], "type 7 of token 8 in pair 1"),
        (ids, types, [4, 4], "lengths add up to 8; there are 9 tokens"),
        (ids, types, [9, 0], "pair 1 has 0 tokens"),
        (ids, types, [10, -1], "pair 1 has -1 tokens"),
    ]
    for wrong_ids, wrong_types, wrong_lengths, message in cases:
        with pytest.raises(library.ModelError, match=message):
            model.run(wrong_ids, wrong_types, np.array(wrong_lengths, np.int32))
    long = made.batch([model.positions + 1])
    with pytest.raises(library.ModelError, match=f"position {model.positions} of token"):
        model.run(*long)
    for threads in (0, -1, 2**32 + 1):
        with pytest.raises(library.ModelError, match=f"threads is {threads}; 1 to"):
            model.run(ids, types, lengths, threads=threads)
    assert model.run(ids[:0], types[:0], lengths[:0]).shape == (0, 1)


def test_other_shapes_and_types_than_integers_in_one_dimension_are_refused(artifact: Any) -> None:
    """The library takes a pointer and a number: of more dimensions it would write logits that have no place."""
    library, made = kernels(reference=True), artifact("bert")
    model, (ids, types, lengths) = made.model(reference=True), made.batch([4, 5, 6])
    cases: list[tuple[Any, Any, Any, str]] = [
        (ids, types, lengths[None], r"lengths has shape \(1, 3\)"),
        (ids[None], types[None], lengths, r"ids has shape \(1, 15\)"),
        (ids, types[None], lengths, r"types has shape \(1, 15\)"),
        (ids, None, np.int32(15), r"lengths has shape \(\)"),
        (ids.astype(np.float32), types, lengths, "ids has .* type float32"),
        (ids, types.astype(bool), lengths, "types has .* type bool"),
        (ids, types, lengths.astype(float), "lengths has .* type float64"),
        (ids + np.int64(2**32), types, lengths, "ids has 42949.*, which is no int32"),
        (ids, types, lengths - np.int64(2**32), "lengths has -42949.*, which is no int32"),
        (ids, types, np.full(3, 2**63, np.uint64), "lengths has 92233.*, which is no int32"),
    ]
    for wrong_ids, wrong_types, wrong_lengths, message in cases:
        with pytest.raises(library.ModelError, match=message):
            model.run(wrong_ids, wrong_types, wrong_lengths)
    expected = model.run(ids, types, lengths)
    np.testing.assert_array_equal(model.run(ids.astype(np.uint16), types.astype(">i8"), lengths.astype(int)), expected)


@pytest.mark.parametrize(
    ("pad_id", "message"),
    [(-1, "pad_id is -1; 0 to"), (2**32, "pad_id is 4294967296; 0 to"), (10**6, "pad_id 1000000 leaves no position")],
)
def test_padding_ids_that_no_position_is_behind_are_refused(artifact: Any, pad_id: int, message: str) -> None:
    library = kernels(reference=True)
    with pytest.raises(library.ModelError, match=message):
        library.Model(artifact("bert").tensors, epsilon=1e-12, pad_id=pad_id)


@pytest.mark.parametrize(
    "place", ["head.dense.bias", "up.bias", "embeddings.norm.bias", "layer.2.query.weight", "layer.2.up.weight"]
)
def test_what_is_no_number_in_the_weights_is_none_in_the_logits(artifact: Any, place: str) -> None:
    needs_instructions()
    made = artifact("bert", (2,))
    (last,) = {name.partition(".key.")[0] for name in made.tensors if "key.per_head" in name}
    name = f"{last}.{place}" if place == "up.bias" else place
    spoiled = made.tensors[name].copy()
    spoiled[3] = np.nan
    model = kernels().Model(made.tensors | {name: spoiled}, epsilon=made.epsilon, head_activation=made.head)
    assert np.isnan(model.run(*made.batch([7, 20]))).all()


def test_weights_that_lie_at_odd_bytes_of_a_file_are_moved(artifact: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each begins a byte behind a multiple of 4, as in a file of weights that was packed without gaps."""
    library, made = kernels(reference=True), artifact("bert", (0,))
    batch, expected, compiled = made.batch([3, 9]), made.model(reference=True), library._library()
    tensors = {
        name: np.frombuffer(b"\0" + value.tobytes(), value.dtype, offset=1).reshape(value.shape)
        for name, value in made.tensors.items()
    }
    assert not tensors["layer.0.query.weight"].flags.aligned
    opened: list[tuple[int, int]] = []

    class Spy:
        def __getattr__(self, name: str) -> Any:
            return getattr(compiled, name)

        def crossrank_open(self, array: Any, *rest: Any) -> Any:
            opened.extend((entry.dtype, entry.values) for entry in array)
            return compiled.crossrank_open(array, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(library, "_library", Spy)
        model = library.Model(tensors, epsilon=made.epsilon, head_activation=made.head)
    assert [address % 4 for dtype, address in opened if dtype == 1] == [0] * sum(dtype == 1 for dtype, _ in opened)
    np.testing.assert_array_equal(model.run(*batch), expected.run(*batch))


@pytest.mark.parametrize("name", ["embeddings.positions", "embeddings.words", "head.classifier.weight"])
def test_sizes_of_nothing_take_no_memory(artifact: Any, name: str) -> None:
    resource = pytest.importorskip("resource")
    library, made = kernels(reference=True), artifact("bert")
    tensors = {other: value for other, value in made.tensors.items() if other.removesuffix(".int8") != name}
    shape = (0, 2**25 - 1) if name.startswith("head") else (2**25 - 1, 0)
    kept = f"{name}.int8" if name == "embeddings.words" else name
    tensors[kept] = np.zeros(shape, np.int8 if kept != name else np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(library.ModelError, match=f"{kept} has shape"):
        library.Model(tensors, epsilon=made.epsilon)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


def test_a_call_waits_for_no_lock_that_a_forked_child_may_find_held(artifact: Any) -> None:
    library, made = kernels(reference=True), artifact("bert")
    model, batch = made.model(reference=True), made.batch([3, 9])
    found: list[NDArray[np.float32]] = []
    expected = model.run(*batch)
    hold = library._library().crossrank_hold
    hold(model._handle, 1)
    caller = threading.Thread(target=lambda: found.append(model.run(*batch)), daemon=True)
    caller.start()
    caller.join(20)
    hold(model._handle, 0)
    assert len(found) == 1
    np.testing.assert_array_equal(found[0], expected)

"""Int8 artifacts on crossrank-kernels: scores, flat batches, threads, forks, refusals, and what is said of them.

The library is the checkout's, compiled once. Without a compiler, or on a processor that it does not run on, what needs
it is skipped. Logits of the embedded model
reach 9; the bound between the library and the graph is int8's of the manifest, which both keep to the reference.
"""

import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crossrank import CrossEncoder, InputError, ProofError
from crossrank._artifact.manifest import read_manifest
from crossrank._artifact.origin import EMBEDDED_MODEL
from crossrank._artifact.parity import BOUNDS
from crossrank._cli.main import main
from crossrank._device.batches import plan_flat_batches
from crossrank._device.compiled import switched_on, why_absent
from crossrank._proof import verify_artifact
from crossrank._text.pairs import PackedPairs
from crossrank.export import export_model
from tests.support.artifacts import edit_manifest
from tests.support.compiled_kernels import float_layers, installed
from tests.support.tiny_models import PAIRS, make_checkpoint
from tests.support.trained_models import Trained

SWITCH = "CROSSRANK_KERNELS"
QUERY, DOCUMENT = PAIRS[0]
DOCUMENTS = [document for _, document in PAIRS]
COVERED = ("bert", "electra", "roberta", "xlm-roberta", "camembert", "distilbert")


@pytest.fixture(scope="module")
def library() -> Iterator[None]:
    """The checkout's library, for this process and those that it starts, whatever is installed."""
    folder = str(installed())
    with pytest.MonkeyPatch.context() as patch:
        for name in ("crossrank_kernels", "crossrank._device.kernels.backend"):
            patch.delitem(sys.modules, name, raising=False)
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", folder, prepend=os.pathsep)
        import crossrank_kernels

        if not crossrank_kernels.instructions():
            pytest.skip("crossrank-kernels does not run on this processor")
        yield


needs_library = pytest.mark.usefixtures("library")


@pytest.fixture(autouse=True)
def _switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")


def open_model(folder: Path | str = EMBEDDED_MODEL, **options: Any) -> CrossEncoder:
    return CrossEncoder(folder, device="cpu", precision="int8", activation_fn="identity", **options)


def by_onnxruntime(folder: Path | str = EMBEDDED_MODEL, **options: Any) -> CrossEncoder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "0")
        return open_model(folder, **options)


@needs_library
def test_scores_are_within_the_bound_of_the_graphs(trained: Trained) -> None:
    documents = [*trained.passages, "", "word", trained.passages[0] * 20]
    ours, theirs = (
        open_model(trained.artifact).score(trained.query, documents),
        by_onnxruntime(trained.artifact).score(trained.query, documents),
    )
    error, bound = np.abs(ours - theirs), BOUNDS["int8"]
    assert error.max() <= bound.max_abs * max(1.0, theirs.std())
    assert error.mean() <= bound.mean_abs * max(1.0, theirs.std())


@needs_library
@pytest.mark.parametrize("architecture", COVERED)
def test_every_architecture_that_is_covered_runs_within_the_bound(tmp_path: Path, architecture: str) -> None:
    sizes = {"embedding_size": 32} if architecture == "electra" else {}  # as wide as its layers
    checkpoint = make_checkpoint(tmp_path / "checkpoint", architecture, **sizes)
    artifact = export_model(checkpoint, tmp_path / "artifact", variants=["cpu"], precisions=["int8"])
    model = open_model(artifact)
    assert model.info().provider.startswith("crossrank-kernels ")
    theirs = by_onnxruntime(artifact).score(QUERY, DOCUMENTS)
    np.testing.assert_allclose(
        model.score(QUERY, DOCUMENTS), theirs, atol=BOUNDS["int8"].max_abs * max(1, theirs.std())
    )
    (variant,) = read_manifest(artifact).variants
    assert variant.kernels is not None
    assert variant.kernels.provider.startswith("crossrank-kernels ")
    assert variant.problems() == []


@needs_library
def test_an_artifact_with_layers_in_float_runs_within_the_bound_and_info_says_how(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "bert", num_hidden_layers=4)
    with float_layers(0, 2):
        artifact = export_model(checkpoint, tmp_path / "artifact", variants=["cpu"], precisions=["int8"])
    edit_manifest(artifact, lambda data: data["variants"][0].update(float_layers=[0, 2]))
    (variant,) = read_manifest(artifact).variants
    assert variant.kernels is not None
    assert variant.kernels.problems(BOUNDS["int8"]) == []
    assert variant.kernels.alone_max_abs == 0
    info = open_model(artifact).info()
    assert info.provider == variant.kernels.provider
    assert info.kernels is None
    numbers = "bfloat16" if "avx512-bf16" in info.provider else "float32"
    assert f"layers 0, 2, which the bound needs, by products of {numbers}\n" in f"{info}\n"
    assert "layers 0, 2, which the bound needs\n" in f"{by_onnxruntime(artifact).info()}\n"


@needs_library
@pytest.mark.parametrize("architecture", ["mpnet", "deberta-v2"])
def test_an_architecture_that_is_not_covered_runs_as_before_and_says_why(tmp_path: Path, architecture: str) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", architecture)
    artifact = export_model(checkpoint, tmp_path / "artifact", variants=["cpu"], precisions=["int8"])
    info = open_model(artifact).info()
    assert info.provider == "CPUExecutionProvider"
    assert "covered" in str(info.kernels)
    assert str(info.kernels) in str(info)


@needs_library
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_score_is_the_same_to_the_bit_in_any_batch_and_by_any_threads(trained: Trained, threads: int) -> None:
    documents = [*trained.passages[:20], "", trained.passages[0] * 8]
    model = open_model(trained.artifact, threads=threads)
    alone = np.array([model.score(trained.query, [document])[0] for document in documents])
    assert (model.score(trained.query, documents) == alone).all()
    pairs = [(trained.query, document) for document in documents[::-1]]
    assert (model.predict(pairs, batch_size=3)[::-1] == alone).all()
    many = model.score(trained.query, documents * 40)
    assert (many.reshape(40, -1) == alone).all()


@needs_library
def test_a_batch_holds_pairs_of_any_lengths_within_the_budget() -> None:
    model = open_model(threads=1)
    backend: Any = model._scorer.backend
    run, seen = backend.run, []

    def watched(batch: PackedPairs, *, alone: bool = False) -> NDArray[np.float32]:
        seen.append(batch.lengths.tolist())
        logits: NDArray[np.float32] = run(batch, alone=alone)
        return logits

    backend.run = watched
    model.score(QUERY, [" ".join(DOCUMENTS[:1]) + " more" * count for count in range(200)])
    assert sum(map(len, seen)) == 200
    assert max(len(set(lengths)) for lengths in seen) > 1
    assert all(sum(lengths) <= backend.max_tokens for lengths in seen)
    assert len(seen) < 100


@needs_library
def test_batches_of_a_quick_model_are_large_once_they_are_measured(artifact_with_proof: Path, tmp_path: Path) -> None:
    model = open_model(artifact_with_proof, cache_folder=tmp_path / "cache")
    assert model.info().batch_tokens == 512
    model.warm_up()
    assert model.info().batch_tokens == 2048  # two milliseconds of this model are more
    again = open_model(artifact_with_proof, cache_folder=tmp_path / "cache")
    assert again.info().batch_tokens == 2048


@needs_library
def test_one_slow_document_does_not_give_all_threads_to_quick_ones(
    artifact_with_proof: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import crossrank_kernels

    run, threads_used = crossrank_kernels.Model.run, list[int]()

    def slow_at_first(*arguments: Any, threads: int) -> NDArray[np.float32]:
        if not threads_used:
            time.sleep(0.05)
        threads_used.append(threads)
        logits: NDArray[np.float32] = run(*arguments, threads=threads)
        return logits

    model = open_model(artifact_with_proof, threads=2)
    monkeypatch.setattr(crossrank_kernels.Model, "run", slow_at_first)
    for count in range(50):  # one alone may wait for a busy core
        model.score(QUERY, [f"{DOCUMENT} {count}"])
    assert threads_used[:2] == [1, 2]
    assert threads_used[-1] == 1


@needs_library
def test_many_threads_share_a_model(trained: Trained) -> None:
    model = open_model()
    expected = model.score(trained.query, trained.passages)
    wrong: list[float] = []

    def work() -> None:
        for start in range(0, len(trained.passages), 7):
            part = model.score(trained.query, trained.passages[start : start + 7])
            wrong.append(float(np.abs(part - expected[start : start + 7]).max()))

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert max(wrong) == 0


@needs_library
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_gives_the_same_scores() -> None:
    code = """
import os
from crossrank import CrossEncoder
model = CrossEncoder(device="cpu")
documents = ["one", "two two", "three three three"] * 5
before = model.score("query", documents).tolist()
child = os.fork()
if not child:
    os._exit(0 if model.score("query", documents).tolist() == before else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), model.info().provider)
"""
    status, provider = _python(code).split(" ", 1)
    assert status == "0"
    assert provider.startswith("crossrank-kernels ")


@needs_library
def test_a_deadline_is_kept_and_what_was_scored_is_right(trained: Trained) -> None:
    model = open_model()
    model.warm_up()
    assert model.info().batch_tokens_origin == "measured on this machine"
    documents = [f"{passage} {i}" for i in range(100) for passage in trained.passages]  # equal ones run once
    ranking = model.rank(trained.query, documents, deadline_ms=150)
    scores = {entry["corpus_id"]: entry["score"] for entry in ranking if entry["score"] is not None}
    assert 0 < len(scores) < len(documents)
    assert list(scores.values()) == model.score(trained.query, [documents[place] for place in scores]).tolist()


@needs_library
def test_other_costs_are_kept_than_those_of_the_graph() -> None:
    backends: list[Any] = [model._scorer.backend for model in (open_model(), by_onnxruntime())]
    assert len({backend._subject for backend in backends}) == 2


@needs_library
def test_info_tells_the_library_and_the_error_that_was_measured(artifact_with_proof: Path) -> None:
    info = open_model(artifact_with_proof).info()
    assert info.kernels is None
    assert info.parity == read_manifest(artifact_with_proof).variants[0].kernels
    assert f"runs on       cpu, {info.provider}\n" in str(info)
    assert "avx512" in info.provider


@needs_library
def test_of_an_older_artifact_info_says_that_verify_measures(artifact_with_proof: Path) -> None:
    edit_manifest(artifact_with_proof, lambda data: [entry.pop("kernels") for entry in data["variants"]])
    model = open_model(artifact_with_proof)
    assert model.info().parity is None
    assert "crossrank verify" in str(model.info())


@needs_library
def test_verify_proves_what_runs(artifact_with_proof: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, skipped = verify_artifact(artifact_with_proof)
    assert not skipped
    kernels = manifest.variants[0].kernels
    assert kernels is not None
    assert kernels.alone_max_abs == 0
    assert not kernels.problems(BOUNDS["int8"])
    main(["verify", str(artifact_with_proof)])
    assert f"by {kernels.provider}" in capsys.readouterr().out


@needs_library
def test_kernels_whose_error_left_the_bound_do_not_run(artifact_with_proof: Path) -> None:
    def spoil(data: dict[str, Any]) -> None:
        data["variants"][0]["kernels"]["max_abs"] = 99.0

    edit_manifest(artifact_with_proof, spoil)
    info = open_model(artifact_with_proof).info()
    assert info.provider == "CPUExecutionProvider"
    assert "max |Δlogit| 99" in str(info.kernels)


@needs_library
def test_what_was_measured_of_other_kernels_is_not_said_of_these(artifact_with_proof: Path) -> None:
    def move(data: dict[str, Any]) -> None:
        data["variants"][0]["kernels"] |= {"provider": "crossrank-kernels 0.0.1 (avx512-vnni)", "max_abs": 99.0}

    edit_manifest(artifact_with_proof, move)
    info = open_model(artifact_with_proof).info()
    assert info.provider.startswith("crossrank-kernels ")
    assert info.parity is None
    assert "crossrank verify" in str(info)


@needs_library
def test_without_the_memory_for_its_weights_the_graph_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **settings: object) -> None:
        raise MemoryError("the memory does not suffice: std::bad_alloc")

    monkeypatch.setattr("crossrank_kernels.Model", refuse)
    info = open_model().info()
    assert info.provider == "CPUExecutionProvider"
    assert "memory" in str(info.kernels)


@needs_library
def test_with_a_protobuf_that_is_too_old_the_graph_runs_and_info_names_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("onnx_file", "model", "backend"):
        monkeypatch.delitem(sys.modules, f"crossrank._device.kernels.{name}", raising=False)
    name = "google.protobuf.message_factory"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    info = open_model().info()
    assert info.provider == "CPUExecutionProvider"
    assert "pip install 'crossrank[cpu-kernels]'" in str(info.kernels)


def test_verify_fails_for_the_error_of_kernels_unless_it_is_known_and_the_graph_runs(
    artifact_with_proof: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parity = read_manifest(artifact_with_proof).variants[0].parity
    assert parity is not None
    spoiled = replace(parity, provider="crossrank-kernels 0.0.1 (avx512-vnni)", max_abs=99.0)
    monkeypatch.setattr("crossrank._proof.prove_kernels", lambda *subject, **settings: spoiled)
    with pytest.raises(ProofError, match=r"by crossrank-kernels 0.0.1 .*max \|Δlogit\| 99"):
        verify_artifact(artifact_with_proof)
    edit_manifest(artifact_with_proof, lambda data: data["variants"][0].update(kernels=asdict(spoiled)))
    (said,) = verify_artifact(artifact_with_proof)[1]
    assert "max |Δlogit| 99" in said
    assert "onnxruntime runs it" in said


@pytest.fixture
def artifact_with_proof(tmp_path: Path) -> Path:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "bert")
    return export_model(checkpoint, tmp_path / "artifact", variants=["cpu"], precisions=["int8"])


def test_one_switch_turns_them_off() -> None:
    info = by_onnxruntime().info()
    assert info.provider == "CPUExecutionProvider"
    assert info.kernels == f"switched off by {SWITCH}=0"


def test_a_switch_that_is_set_to_nothing_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "")
    assert switched_on()


def test_another_value_of_the_switch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "yes")
    with pytest.raises(InputError, match=f"{SWITCH}='yes': 1 for crossrank-kernels where they run, or 0"):
        open_model()


def test_an_export_refuses_another_value_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "bert")
    monkeypatch.setenv(SWITCH, "yes")
    monkeypatch.setattr("crossrank.export._convert.fetch_checkpoint", lambda *source, **settings: pytest.fail("begun"))
    with pytest.raises(InputError, match=f"{SWITCH}='yes'"):
        export_model(checkpoint, tmp_path / "artifact", variants=["cpu"], precisions=["int8"])


def test_without_the_library_the_graph_runs_and_info_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "crossrank_kernels", None)
    monkeypatch.setattr("crossrank._device.compiled.read_cpuinfo", lambda: {"flags": "avx512_vnni"})
    model = open_model()
    assert model.info().provider == "CPUExecutionProvider"
    assert model.info().kernels == "not installed: pip install 'crossrank[cpu-kernels]'"
    assert asdict(model.info())["kernels"] == model.info().kernels


@pytest.mark.parametrize(("system", "machine"), [("linux", "aarch64"), ("darwin", "x86_64"), ("win32", "AMD64")])
def test_where_there_is_no_library_to_install_info_names_no_command(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert why_absent() == f"none are made for {system} on {machine}, but for linux on x86_64"


@pytest.mark.parametrize(("flags", "reason"), [("avx2 avx512f", "lacks AVX512-VNNI"), ("avx512_vnni", "pip install")])
def test_a_processor_that_the_library_does_not_run_on_is_told_no_command(
    monkeypatch: pytest.MonkeyPatch, flags: str, reason: str
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr("crossrank._device.compiled.read_cpuinfo", lambda: {"flags": flags})
    assert reason in why_absent()
    assert ("pip" in why_absent()) == (reason == "pip install")


def test_other_graphs_say_nothing_of_them(tmp_path: Path) -> None:
    artifact = export_model(make_checkpoint(tmp_path / "checkpoint", "bert"), tmp_path / "artifact", variants=["cpu"])
    info = CrossEncoder(artifact, device="cpu").info()
    assert (info.precision, info.kernels) == ("fp32", None)
    assert "kernels" not in str(info)


@needs_library
def test_a_float_graph_and_a_switched_off_library_load_nothing_of_it(tmp_path: Path) -> None:
    artifact = export_model(make_checkpoint(tmp_path / "checkpoint", "bert"), tmp_path / "artifact", variants=["cpu"])
    loaded = "[name for name in sys.modules if 'kernels' in name or name.startswith('google.protobuf')]"
    code = (
        "import sys; from crossrank import CrossEncoder; CrossEncoder(*{}, device='cpu').score('a', ['b']); print({})"
    )
    assert _python(code.format([str(artifact)], loaded)) == "[]"
    assert _python(code.format([], loaded), **{SWITCH: "0"}) == "[]"
    unloaded = "[name for name in ('onnxruntime', 'importlib.metadata') if name in sys.modules]"
    assert _python(code.format([], unloaded)) == "[]"


@pytest.mark.parametrize(
    ("max_tokens", "max_pairs", "lanes"), [(512, None, 1), (200, 3, 2), (10, None, 3), (2048, 1, 4)]
)
def test_flat_batches_hold_each_pair_once_and_keep_to_the_budget(
    max_tokens: int, max_pairs: int | None, lanes: int
) -> None:
    lengths = np.random.default_rng(0).integers(1, 513, 300).astype(np.int32)
    batches = plan_flat_batches(lengths, max_tokens=max_tokens, max_pairs=max_pairs, lanes=lanes)
    assert sorted(np.concatenate(batches).tolist()) == list(range(300))
    for batch in batches:
        assert len(batch) == 1 or lengths[batch].sum() <= max_tokens
        assert len(batch) <= (max_pairs or len(batch))
    ordered = lengths[np.concatenate(batches)]
    assert (np.diff(ordered) <= 0).all()
    assert plan_flat_batches(lengths[:0], max_tokens=max_tokens, lanes=lanes) == []


def _python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

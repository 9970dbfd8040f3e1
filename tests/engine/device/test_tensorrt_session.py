"""TensorRT's session, rehearsed on the CPU, and its cache of engines, with a provider that only pretends to build.

The portable graph runs on the CPU provider, at the shapes and from the buffers that TensorRT would get. `TOLERANCE` is
that of test_parity.py: float32 rounding of logits with a standard deviation of 1.5.
"""

import json
import logging
import os
import shutil
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from crossrank import ArtifactError, CrossEncoder, DeviceError, InputError, ProofError
from crossrank._artifact.choice import choose_variant
from crossrank._artifact.foreign import files_beside
from crossrank._artifact.held import ModelFile
from crossrank._artifact.manifest import Variant, read_manifest
from crossrank._device.open import OpenModel
from crossrank._device.session import open_graph
from crossrank._device.tensorrt.cache import RECORD_NAME, EngineKey, find_engines, new_engine
from crossrank._device.tensorrt.engines import EngineStore
from crossrank._device.tensorrt.profiles import Profile, Shape, TensorrtSettings, make_profiles
from crossrank._device.tensorrt.session import TensorrtSession
from crossrank._machine.advice import TensorrtFacts, read_tensorrt_facts
from crossrank._machine.cpu import resolve_threads
from crossrank._machine.device import Device, parse_device
from crossrank._machine.gpu import Gpu, GpuFacts
from crossrank._text.tokenizer import PairTokenizer
from crossrank.export import export_model
from crossrank.export._cli import main as export_main
from crossrank.export._prove.tensorrt import build_engines
from tests.support.artifacts import edit_manifest, make_artifact
from tests.support.foreign_graphs import edit_graph, one_dimension
from tests.support.scorers import scorer_of
from tests.support.tiny_models import ARCHITECTURES, PAIRS, make_checkpoint, transformers_logits

MakePortable = Callable[..., Path]

TOLERANCE = 2e-5
CPU = Device("cpu")
QUERIES, DOCUMENTS = zip(*PAIRS, strict=True)
# Lengths of the tiny models' pairs lie on both sides of 16.
SETTINGS = TensorrtSettings(max_tokens=96, most_pairs=5, shortest=16, fixed=(Shape(2, 24), Shape(4, 48)))
MACHINE = GpuFacts("1.31.1", 13, (Gpu("NVIDIA L4", (8, 9)), Gpu("NVIDIA A100", (8, 0))), (580, 65), (9, 12))
FACTS = TensorrtFacts(MACHINE, (10, 14, 1))


def rehearse(path: Path) -> tuple[Callable[[Profile, bool], Any], list[tuple[Profile, bool]]]:
    opened: list[tuple[Profile, bool]] = []

    def open_engine(profile: Profile, capture: bool) -> Any:
        opened.append((profile, capture))
        return Watched(open_graph(path, CPU), profile)

    return open_engine, opened


class Watched:
    """A session that refuses shapes outside of its profile, as TensorRT does."""

    def __init__(self, session: Any, profile: Profile) -> None:
        self._session, self._profile = session, profile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, names: list[str], feed: dict[str, Any]) -> Any:
        low, high = self._profile.least, self._profile.most
        for value in feed.values():
            assert low.pairs <= value.shape[0] <= high.pairs
            assert low.length <= value.shape[1] <= high.length
        return self._session.run(names, feed)


class Unbound(Watched):
    """One whose memory cannot be bound."""

    @property
    def io_binding(self) -> Any:
        return partial(onnxruntime.OrtValue.ortvalue_from_numpy, np.zeros(1), "nowhere")


@pytest.fixture(scope="module")
def make_portable(tmp_path_factory: pytest.TempPathFactory) -> MakePortable:
    """Artifacts of portable graphs, float32 and float16, with their checkpoint beside them."""

    @cache
    def make(architecture: str, labels: int = 1) -> Path:
        folder = tmp_path_factory.mktemp(architecture)
        checkpoint = make_checkpoint(folder / "checkpoint", architecture, labels=labels)
        return export_model(checkpoint, folder / "artifact", variants=["portable"], precisions=["fp32", "fp16"])

    return make


@pytest.fixture
def artifact(make_portable: MakePortable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of its own, and a user's cache beside it."""
    monkeypatch.setenv("CROSSRANK_HOME", str(tmp_path / "home"))
    return Path(shutil.copytree(make_portable("bert"), tmp_path / "own"))


@pytest.fixture
def bert(make_portable: MakePortable) -> Path:
    return make_portable("bert")


def open_rehearsal(artifact: Path) -> tuple[OpenModel, list[tuple[Profile, bool]]]:
    manifest = read_manifest(artifact)
    variant = choose_variant(manifest.variants, CPU, "fp32")
    open_engine, opened = rehearse(artifact / variant.file)

    session = TensorrtSession(
        artifact / variant.file,
        manifest.inputs,
        CPU,
        artifact=artifact,
        settings=SETTINGS,
        open_engine=open_engine,
    )
    path = artifact / "tokenizer.json"
    file, threads = ModelFile(path), resolve_threads(1)
    return OpenModel(artifact, manifest, PairTokenizer(path), variant, session, threads, file, file), opened


def score(model: OpenModel, pairs: int = len(PAIRS)) -> Any:
    head, inputs = model.manifest.head, model.manifest.inputs
    scorer = scorer_of(model.tokenizer, model.backend, inputs.max_length, head.labels)
    return scorer.logits(QUERIES[:pairs], DOCUMENTS[:pairs], np.arange(pairs))


@pytest.mark.parametrize(("architecture", "labels"), [*((name, 1) for name in ARCHITECTURES), ("bert", 3)])
def test_padded_to_its_profiles_the_graph_equals_transformers(
    make_portable: MakePortable, architecture: str, labels: int
) -> None:
    """RoBERTa's positions and MPNet's bias too, at fixed shapes with rows below and in ranges."""
    artifact = make_portable(architecture, labels)
    model, opened = open_rehearsal(artifact)
    reference = transformers_logits(artifact.parent / "checkpoint", PAIRS)
    assert len(opened) == 1  # all others wait for a batch
    for pairs in (len(PAIRS), 1, 2, 3):
        assert np.abs(score(model, pairs) - reference[:pairs]).max() <= TOLERANCE
    assert {profile.fixed for profile, _ in opened} == {False, True}


def test_logits_in_one_dimension_are_bound_as_such(make_portable: MakePortable, tmp_path: Path) -> None:
    """As other exporters declare those of one label."""
    artifact = Path(shutil.copytree(make_portable("bert", 1), tmp_path / "artifact"))
    path = artifact / "onnx/model.onnx"
    edit_graph(path, one_dimension)
    edit_manifest(
        artifact, lambda manifest: manifest["files"]["onnx/model.onnx"].update(size_bytes=path.stat().st_size)
    )
    model, opened = open_rehearsal(artifact)
    reference = transformers_logits(make_portable("bert", 1).parent / "checkpoint", PAIRS)
    for pairs in (len(PAIRS), 1, 2):
        assert np.abs(score(model, pairs) - reference[:pairs]).max() <= TOLERANCE
    assert {profile.fixed for profile, _ in opened} == {False, True}


def test_a_call_takes_the_sessions_own_batches(bert: Path) -> None:
    model, opened = open_rehearsal(bert)
    assert (model.backend.max_tokens, model.backend.max_tokens_origin) == (96, "fixed")
    score(model)
    model.backend.warm_up()
    profiles = make_profiles(model.manifest.inputs.max_length, SETTINGS)
    assert {profile for profile, _ in opened} == set(profiles)
    assert len(opened) == len(profiles)  # each once
    assert all(capture == profile.fixed for profile, capture in opened)


def test_where_nothing_can_be_captured_fixed_shapes_run_plainly(bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    inputs, path = read_manifest(bert).inputs, bert / "onnx/model.onnx"

    failed: list[weakref.ref[Any]] = []

    def open_engine(profile: Profile, capture: bool) -> Any:
        assert not any(session() for session in failed)  # a device may not hold two
        if not capture:
            return open_graph(path, CPU)
        session = Unbound(open_graph(path, CPU), profile)
        failed.append(weakref.ref(session))
        return session

    session = TensorrtSession(path, inputs, CPU, artifact=bert, settings=SETTINGS, open_engine=open_engine)
    session.warm_up()
    assert "no CUDA graphs, small batches take longer: Unsupported device type: nowhere" in caplog.text
    assert len(failed) == len(SETTINGS.fixed)


def test_a_graph_without_a_mask_is_refused_since_padding_would_change_its_scores(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path)
    path = folder / "onnx/model_cpu_fp32.onnx"
    open_engine, _ = rehearse(path)
    with pytest.raises(ArtifactError, match="has no attention_mask, which TensorRT's padded shapes need"):
        TensorrtSession(
            path, read_manifest(folder).inputs, CPU, artifact=folder, settings=SETTINGS, open_engine=open_engine
        )


def test_a_forked_child_is_told_to_load_the_model_itself(bert: Path) -> None:
    model, _ = open_rehearsal(bert)
    session = model.backend
    assert isinstance(session, TensorrtSession)
    session._process = os.getpid() + 1
    with pytest.raises(DeviceError, match="a forked process cannot use"):
        score(model, 1)


def test_engines_are_built_one_after_the_other_proven_and_reported(bert: Path) -> None:
    model, _ = open_rehearsal(bert)
    stages: list[str] = []
    build_engines(model, lambda name, seconds: stages.append(name) if seconds is None else None)
    profiles = make_profiles(model.manifest.inputs.max_length, SETTINGS)
    assert stages == [*map(str, profiles), "prove on TensorRT"]


def test_engines_whose_scores_leave_the_bounds_are_an_error(artifact: Path) -> None:
    model, _ = open_rehearsal(artifact)
    proof = json.loads((artifact / "proof.json").read_text())
    proof["logits"][0][0] += 1
    (artifact / "proof.json").write_text(json.dumps(proof))
    with pytest.raises(ProofError, match="on TensorRT the scores leave the bounds"):
        build_engines(model, None)


# The cache of engines. The provider's work is played: it writes an engine where the options say.


class Provider:
    """Opens sessions as onnxruntime's TensorRT provider does, but for TensorRT: it takes any engine it finds."""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.refused: str | None = None
        self.takes_s = 0.0

    def __call__(self, path: Path, device: Device, *, packed: bool, for_provider: dict[str, str]) -> Any:
        assert packed  # a node that TensorRT does not take is an error, not a node on the CPU
        engine = Path(for_provider["trt_engine_cache_path"]) / "crossrank_123_0_sm89.engine"
        if engine.exists() and self.refused:
            raise DeviceError(self.refused)
        if not engine.exists():
            timing = Path(for_provider["trt_timing_cache_path"]) / "sm89.timing"
            if timing.exists() and timing.read_text() != "times":
                raise DeviceError(f"TensorRT EP could not create timing cache: {timing}")
            time.sleep(self.takes_s)
            shapes = for_provider["trt_profile_max_shapes"]
            engine.write_text(f"an engine for {shapes}")
            timing.write_text("times")
            self.built.append(shapes)
        return open_graph(path, CPU)


def store_of(artifact: Path, provider: Provider, facts: TensorrtFacts = FACTS, **options: Any) -> EngineStore:
    device = options.pop("device", Device("tensorrt"))
    path, half = artifact / "onnx/model.onnx", options.pop("half", False)
    return EngineStore(path, device, artifact, half=half, facts=facts, open_graph=provider)


PROFILE, OTHER = make_profiles(48, SETTINGS)[-2:]


def engine_folders(place: Path) -> list[Path]:
    return sorted(path.parent for path in place.glob(f"*/{RECORD_NAME}"))


def test_an_engine_is_built_once_and_then_found(artifact: Path) -> None:
    first, second = Provider(), Provider()
    for profile in (PROFILE, OTHER, PROFILE):
        store_of(artifact, first)(profile, False)
    store_of(artifact, second)(PROFILE, False)
    assert (len(first.built), len(second.built)) == (2, 0)
    folders = engine_folders(artifact / "tensorrt")
    assert len(folders) == 2
    record = json.loads((folders[0] / RECORD_NAME).read_text())
    assert record["key"]["gpu"] == "NVIDIA L4"
    assert record["key"]["tensorrt"] == "10.14.1"
    assert list(record["files"]) == ["crossrank_123_0_sm89.engine"]
    assert [path.name for path in (artifact / "tensorrt").glob("timing-*/*")] == ["sm89.timing"]  # one for all
    assert [path.suffix for path in (artifact / "tensorrt").glob(".*")] == [".lock"]  # nothing else is left over


@pytest.mark.parametrize(
    "facts",
    [
        replace(FACTS, tensorrt=(10, 16, 0)),
        TensorrtFacts(replace(MACHINE, onnxruntime="1.30.0"), (10, 14, 1)),
        TensorrtFacts(replace(MACHINE, driver=(581, 1)), (10, 14, 1)),
        TensorrtFacts(replace(MACHINE, gpus=(Gpu("NVIDIA L40", (8, 9)),)), (10, 14, 1)),
        TensorrtFacts(replace(MACHINE, gpus=(Gpu("NVIDIA L4", (9, 0)),)), (10, 14, 1)),
        replace(FACTS, tf32="0"),
    ],
    ids=["TensorRT", "onnxruntime", "driver", "GPU", "capability", "TF32"],
)
def test_another_machine_builds_its_own_engine_and_leaves_the_first(artifact: Path, facts: TensorrtFacts) -> None:
    provider = Provider()
    store_of(artifact, provider)(PROFILE, False)
    store_of(artifact, provider, facts)(PROFILE, False)
    store_of(artifact, provider)(PROFILE, False)
    assert len(provider.built) == 2


def test_other_options_graphs_and_gpus_have_other_engines(artifact: Path) -> None:
    provider = Provider()
    store_of(artifact, provider)(PROFILE, False)
    store_of(artifact, provider, half=True)(PROFILE, False)
    store_of(artifact, provider, device=Device("tensorrt", 1))(PROFILE, False)
    graph = onnx.load(artifact / "onnx/model.onnx")
    graph.doc_string = "changed"
    onnx.save(graph, artifact / "onnx/model.onnx")
    store_of(artifact, provider)(PROFILE, False)
    assert len(provider.built) == 4


def _change_engine(folder: Path) -> None:
    engine = next(folder.glob("*.engine"))
    engine.write_text(engine.read_text().replace("an engine", "AN engine"))  # of the same size


def _change_key(folder: Path) -> None:
    record = json.loads((folder / RECORD_NAME).read_text())
    record["key"]["driver"] = "1.2"
    (folder / RECORD_NAME).write_text(json.dumps(record))


@pytest.mark.parametrize(
    "damage",
    [
        _change_engine,
        _change_key,
        lambda folder: (folder / RECORD_NAME).unlink(),
        lambda folder: (folder / RECORD_NAME).write_text("{"),
        lambda folder: (folder / RECORD_NAME).write_text("[]"),
        lambda folder: next(folder.glob("*.engine")).unlink(),
        lambda folder: (folder / "planted.engine").write_text("somebody else's"),
    ],
    ids=["engine", "key", "no record", "half a record", "no object", "no engine", "one more"],
)
def test_a_damaged_or_foreign_engine_is_built_again(
    artifact: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    provider = Provider()
    store_of(artifact, provider)(PROFILE, False)
    (folder,) = engine_folders(artifact / "tensorrt")
    damage(folder)
    store_of(artifact, provider)(PROFILE, False)
    assert len(provider.built) == 2
    assert "damaged or of another machine, and is built again" in caplog.text
    store_of(artifact, provider)(PROFILE, False)
    assert len(provider.built) == 2


def test_an_engine_that_tensorrt_does_not_take_is_built_again(artifact: Path, caplog: pytest.LogCaptureFixture) -> None:
    provider = Provider()
    store_of(artifact, provider)(PROFILE, False)
    provider.refused = "TensorRT EP could not deserialize engine from cache"
    store_of(artifact, provider)(PROFILE, False)
    assert len(provider.built) == 2
    assert "TensorRT does not take its engine, which is built again" in caplog.text
    provider.refused = None
    store_of(artifact, provider)(PROFILE, False)
    assert len(provider.built) == 2  # the new one took its place


def test_memory_that_does_not_suffice_costs_no_engine(artifact: Path) -> None:
    """TensorRT does not always say that it was memory; then the engine stays until there is a better one."""
    provider = Provider()
    store_of(artifact, provider)(PROFILE, False)
    provider.refused = "CUDA failure 2: out of memory ; GPU=0"
    with pytest.raises(DeviceError, match="out of memory"):
        store_of(artifact, provider)(PROFILE, False)
    assert len(provider.built) == 1

    def fail(*_: Any, **__: Any) -> Any:
        raise DeviceError("TensorRT EP failed to create context.")

    path = artifact / "onnx/model.onnx"
    with pytest.raises(DeviceError, match="failed to create context"):
        EngineStore(path, Device("tensorrt"), artifact, half=False, facts=FACTS, open_graph=fail)(PROFILE, False)
    provider.refused = None
    store_of(artifact, provider)(PROFILE, False)
    assert len(provider.built) == 1


def test_a_damaged_timing_cache_fails_one_build_at_most(artifact: Path) -> None:
    provider = Provider()
    store_of(artifact, provider)(PROFILE, False)
    (timing,) = (artifact / "tensorrt").glob("timing-*/*")
    timing.write_text("half of the ti")
    with pytest.raises(DeviceError, match="could not create timing cache"):
        store_of(artifact, provider)(OTHER, False)
    store_of(artifact, provider)(OTHER, False)
    assert len(provider.built) == 2


def test_an_engine_that_several_want_at_once_is_built_once(artifact: Path) -> None:
    """Threads stand for processes: the lock is of the open file, and each opens its own."""
    provider = Provider()
    provider.takes_s = 0.2
    stores = [store_of(artifact, provider) for _ in range(3)]
    with ThreadPoolExecutor(len(stores)) as pool:
        sessions = list(pool.map(lambda store: store(PROFILE, False), stores))
    assert len(provider.built) == 1
    assert all(session.get_inputs() for session in sessions)


@pytest.mark.parametrize("kept", [False, True])
def test_a_graph_that_was_replaced_gets_no_engine_of_the_older_one(artifact: Path, kept: bool) -> None:
    """As by an export under a running process."""
    provider, path = Provider(), artifact / "onnx/model.onnx"
    if kept:
        store_of(artifact, provider)(PROFILE, False)
    store = store_of(artifact, provider)
    graph = onnx.load(path)
    graph.doc_string = "changed"
    onnx.save(graph, path)
    with pytest.raises(
        ArtifactError, match=r"model\.onnx was replaced since the model was loaded; load the model again"
    ):
        store(PROFILE, False)
    assert len(engine_folders(artifact / "tensorrt")) == kept


@pytest.fixture
def foreign(artifact: Path, tmp_path: Path) -> Path:
    """A graph whose weights lie in files of other names, as other exporters write them."""
    graph, path = onnx.load(artifact / "onnx/model.onnx"), tmp_path / "foreign/model.onnx"
    path.parent.mkdir()
    onnx.save(graph, path, save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=512)
    return path


def test_an_engine_is_of_its_graphs_external_data_too_whatever_its_name(foreign: Path) -> None:
    provider, folder = Provider(), foreign.parent

    def open_engine() -> None:
        file = ModelFile(foreign, beside=files_beside(foreign))
        store = EngineStore(file, Device("tensorrt"), folder, half=False, facts=FACTS, open_graph=provider)
        store(PROFILE, False)

    open_engine()
    open_engine()
    assert len(provider.built) == 1
    weights = max(folder.glob("*weight*"), key=lambda file: file.stat().st_size)
    weights.write_bytes(bytes(weights.stat().st_size))
    open_engine()
    assert len(provider.built) == 2


def test_weights_that_were_replaced_get_no_engine_of_the_older_ones(foreign: Path) -> None:
    file = ModelFile(foreign, beside=files_beside(foreign))
    store = EngineStore(file, Device("tensorrt"), foreign.parent, half=False, facts=FACTS, open_graph=Provider())
    weights = max(foreign.parent.glob("*weight*"), key=lambda file: file.stat().st_size)
    weights.write_bytes(bytes(weights.stat().st_size))
    with pytest.raises(ArtifactError, match=r"model\.onnx was replaced since the model was loaded"):
        store(PROFILE, False)
    assert engine_folders(foreign.parent / "tensorrt") == []


def test_a_profile_has_the_inputs_of_the_graph_and_no_weights_that_are_inputs_too(foreign: Path) -> None:
    """As they are before version 4."""
    graph, provider = onnx.load(foreign), Provider()
    first = graph.graph.initializer[0]
    graph.graph.input.append(onnx.helper.make_tensor_value_info(first.name, first.data_type, first.dims))
    onnx.save(graph, foreign)
    EngineStore(foreign, Device("tensorrt"), foreign.parent, half=False, facts=FACTS, open_graph=provider)(
        PROFILE, False
    )
    (shapes,) = provider.built
    names = [one.partition(":")[0] for one in shapes.split(",")]
    assert names == ["input_ids", "attention_mask", "token_type_ids"]


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"], ids=["empty", "LFS pointer"]
)
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        EngineStore(path, Device("tensorrt"), tmp_path, half=False, facts=FACTS, open_graph=Provider())


def test_the_environment_says_whether_float32_products_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    assert read_tensorrt_facts().tf32 == ""
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert read_tensorrt_facts().tf32 == "0"


def test_a_build_that_fails_leaves_nothing_and_one_that_was_killed_is_cleared_away(artifact: Path) -> None:
    place = artifact / "tensorrt"

    def fail(*_: Any, **__: Any) -> Any:
        raise DeviceError("no memory")

    with pytest.raises(DeviceError, match="no memory"):
        EngineStore(
            artifact / "onnx/model.onnx", Device("tensorrt"), artifact, half=False, facts=FACTS, open_graph=fail
        )(PROFILE, False)
    assert [path.suffix for path in place.iterdir()] == [".lock"]
    store_of(artifact, Provider())(PROFILE, False)
    (folder,) = engine_folders(place)
    killed = place / f".{folder.name}-killed"
    killed.mkdir()
    os.utime(killed, (0, 0))
    shutil.rmtree(folder)
    store_of(artifact, Provider())(PROFILE, False)
    assert not killed.exists()


def test_where_there_are_no_locks_two_processes_may_build_the_same_engine_at_once(tmp_path: Path) -> None:
    key = EngineKey("a", "8.9", "1", "10", "1", "", "0", {})
    with new_engine(tmp_path, key) as (first, keep_first), new_engine(tmp_path, key) as (second, keep_second):
        for work, keep in ((first, keep_first), (second, keep_second)):
            (work / "one.engine").write_text(work.name)
            keep()
    assert list(find_engines([tmp_path], key)) == [tmp_path / key.folder]
    assert [path.name for path in tmp_path.iterdir()] == [key.folder]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_where_the_artifact_cannot_be_written_the_users_cache_keeps_the_engine(artifact: Path) -> None:
    artifact.chmod(0o555)
    try:
        _builds_in_the_users_cache(artifact)
    finally:
        artifact.chmod(0o755)


def test_where_the_artifacts_place_is_taken_the_users_cache_keeps_the_engine(artifact: Path) -> None:
    (artifact / "tensorrt").write_text("a file")
    _builds_in_the_users_cache(artifact)


def _builds_in_the_users_cache(artifact: Path) -> None:
    provider = Provider()
    store_of(artifact, provider)(PROFILE, False)
    store_of(artifact, provider)(PROFILE, False)
    assert len(provider.built) == 1
    assert len(engine_folders(artifact.parent / "home/tensorrt")) == 1


def test_with_no_place_to_write_the_message_names_both(artifact: Path) -> None:
    (artifact / "tensorrt").write_text("a file")
    (artifact.parent / "home").write_text("a file")
    with pytest.raises(InputError, match=r"TensorRT engines cannot be kept in .*own/tensorrt .* or .*home/tensorrt"):
        store_of(artifact, Provider())(PROFILE, False)


def test_building_says_so(artifact: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        store_of(artifact, Provider())(PROFILE, False)
    assert f"device tensorrt:0: building a TensorRT engine for {PROFILE}" in caplog.text


# What one is told where TensorRT does not run, and what is chosen where it does.


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (
            replace(FACTS, tensorrt=None),
            "no TensorRT library is found (libnvinfer.so.10): pip install 'tensorrt-cu13",
        ),
        (
            TensorrtFacts(replace(MACHINE, cuda=12), None),
            "libnvinfer.so.10): pip install 'tensorrt-cu12>=10.14.1,<11'",
        ),
        (
            replace(FACTS, tensorrt=(11, 2, 1)),
            "TensorRT 11.2.1 is installed, onnxruntime 1.31.1 needs 10.14.1 or newer, below 11: pip install 'tensorrt-",
        ),
        (replace(FACTS, tensorrt=(10, 9, 0)), "TensorRT 10.9.0 is installed"),
        (
            TensorrtFacts(replace(MACHINE, gpus=(Gpu("Tesla V100", (7, 0)),)), (10, 14, 1)),
            "GPU Tesla V100 (sm_70) is older than all that TensorRT 10.14 runs on, sm_75",
        ),
        (TensorrtFacts(replace(MACHINE, gpus=()), (10, 14, 1)), "there is no GPU 0"),
        (TensorrtFacts(replace(MACHINE, driver=None, gpus=()), None), "no NVIDIA driver answers"),
    ],
)
def test_what_keeps_tensorrt_from_running_is_named_with_what_to_do(
    facts: TensorrtFacts, expected: str, artifact: Path
) -> None:
    with pytest.raises(DeviceError) as caught:
        store_of(artifact, Provider(), facts)
    assert str(caught.value).startswith("device tensorrt:0: ")
    assert expected in str(caught.value)
    assert FACTS.problem(0) is None


def test_without_tensorrt_a_session_and_an_export_are_refused_and_nothing_runs_on_the_cpu(
    tmp_path: Path, bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if read_tensorrt_facts().problem(0) is None:
        pytest.skip("TensorRT runs here")
    with pytest.raises(DeviceError, match="device tensorrt:0: "):
        CrossEncoder(bert, device="tensorrt")
    assert export_main([str(bert.parent / "checkpoint"), "-o", str(tmp_path / "out"), "--tensorrt"]) == 1
    assert "device tensorrt:0: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "index"), [("tensorrt", 0), ("tensorrt:0", 0), ("tensorrt:1", 1)])
def test_the_device_is_written_as_cudas_is(text: str, index: int) -> None:
    device = parse_device(text)
    assert device == Device("tensorrt", index)
    assert (str(device), device.provider) == (f"tensorrt:{index}", "TensorrtExecutionProvider")


@pytest.mark.parametrize("text", ["tensorrt:", "tensorrt:-1", "tensorrt:x", "trt", "TensorRT"])
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"'tensorrt', 'tensorrt:N'"):
        parse_device(text)


def test_tensorrt_gets_portable_graphs_alone_fp16_where_there_is_one() -> None:
    kinds = (("cpu", "fp32"), ("cuda", "fp16"), ("portable", "fp32"))
    graphs = [Variant(kind, precision, f"{kind}.onnx") for kind, precision in kinds]
    tensorrt = Device("tensorrt")
    assert choose_variant(graphs, tensorrt, "auto").name == "portable fp32"
    half = Variant("portable", "fp16", "half.onnx")
    assert choose_variant([*graphs, half], tensorrt, "auto") == half
    assert choose_variant([*graphs, half], tensorrt, "fp32").name == "portable fp32"


def test_info_says_that_tensorrt_has_not_run_on_hardware() -> None:
    info = CrossEncoder(device="cpu").info()
    assert info.note is None
    assert "\nnote " not in str(info)
    told = replace(info, device="tensorrt:0")
    assert told.note is not None
    assert "not yet run on hardware" in told.note
    assert f"note          {told.note}" in str(told)


# What TensorRT must be able to read.


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_portable_graphs_are_standard_and_of_static_rank(make_portable: MakePortable, architecture: str) -> None:
    """TensorRT takes inputs of int64 since version 10. Operators: those of onnx-tensorrt's table that are used."""
    artifact = make_portable(architecture)
    variants = read_manifest(artifact).variants
    assert [variant.precision for variant in variants] == ["fp32", "fp16"]
    for variant in variants:
        path = artifact / variant.file
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
        assert not model.functions
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
        assert {node.op_type for node in model.graph.node} <= _IN_TENSORRT
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
        known = {value.name: value.type.tensor_type for value in (*inferred.value_info, *inferred.output)}
        for node in model.graph.node:
            for name in node.output:
                assert known[name].HasField("shape"), f"{name} has no static rank"
        assert {entry.type.tensor_type.elem_type for entry in model.graph.input} == {onnx.TensorProto.INT64}
        for entry in model.graph.input:
            assert [bool(dim.dim_param) for dim in entry.type.tensor_type.shape.dim] == [True, True]
        halves = {tensor.data_type for tensor in model.graph.initializer} & {onnx.TensorProto.FLOAT16}
        assert bool(halves) == (variant.precision == "fp16")


# https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md
_IN_TENSORRT = {
    *(
        "Abs",
        "Add",
        "And",
        "Cast",
        "Concat",
        "CumSum",
        "Div",
        "Equal",
        "Erf",
        "Gather",
        "Gemm",
        "LayerNormalization",
        "LessOrEqual",
        "MatMul",
        "Mul",
        "Not",
    ),
    *("Range", "Relu", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Squeeze", "Sub", "Tanh", "Transpose"),
    *("Unsqueeze", "Where"),
}

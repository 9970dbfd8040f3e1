"""A graph that does not hold is left out and named; the others, and what is asked for later, are not touched by it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import transformers
from numpy.typing import NDArray

from crossrank import ArtifactError, CrossEncoder, InputError, ProofError, UnsupportedModelError
from crossrank._artifact.locate import locate_model
from crossrank._artifact.manifest import read_manifest
from crossrank._artifact.parity import BOUNDS, compare_logits
from crossrank._cli.main import main as crossrank_main
from crossrank._cli.tables import format_parity_table
from crossrank._machine.device import Device
from crossrank._proof import verify_artifact
from crossrank.export import _convert, export_model
from crossrank.export._architectures.checkpoint import read_checkpoint
from crossrank.export._blueprint import Blueprint
from crossrank.export._exporters import native
from crossrank.export._graphs import int8
from tests.support.artifacts import edit_manifest
from tests.support.checkpoint_files import files_of, read_tensors, write_tensors
from tests.support.references import reference
from tests.support.tiny_models import ARCHITECTURES, PAIRS, make_checkpoint, transformers_logits

torch = reference("torch")

DEFAULT = ["cpu fp32", "cpu int8", "cuda fp16", "portable fp32"]
OUTLIER = 300.0
TOLERANCE = 2e-5  # float32 rounding at logits of standard deviation 1


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose int8 graph does not hold: one channel lies far from the others, and is taken back unused."""
    folder = make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "coarse", "bert")
    tensors = read_tensors(folder)
    layer = "bert.encoder.layer.0"
    tensors["bert.embeddings.LayerNorm.weight"][0] = 0
    tensors["bert.embeddings.LayerNorm.bias"][0] = OUTLIER
    for part in ("query", "key", "value"):
        tensors[f"{layer}.attention.self.{part}.weight"][:, 0] = 0
    tensors[f"{layer}.attention.output.dense.weight"][0] = 0
    tensors[f"{layer}.attention.output.dense.bias"][0] = -OUTLIER
    write_tensors(folder, tensors)
    return folder


@pytest.fixture(scope="module")
def fine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint all of whose graphs hold."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "fine", "bert")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone."""
    monkeypatch.setenv("CROSSRANK_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def artifact_in(cache: Path) -> Path:
    (manifest,) = cache.glob("*/crossrank.json")
    return manifest.parent


def graphs(folder: Path) -> list[str]:
    return [variant.name for variant in read_manifest(folder).variants]


def logits_of(model: Any, **options: Any) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = CrossEncoder(model, device="cpu", **options).predict(
        list(PAIRS), activation_fn="identity"
    )
    return scores


# What is kept.


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_model_fresh_from_transformers_is_exported_with_all_graphs(tmp_path: Path, architecture: str) -> None:
    """As people make them for their own tests: drawn with a deviation of 0.02, so that the logits hardly differ."""
    folder = make_checkpoint(tmp_path / "checkpoint", architecture)
    config = transformers.AutoConfig.from_pretrained(folder)
    torch.manual_seed(0)
    transformers.AutoModelForSequenceClassification.from_config(config).eval().save_pretrained(folder)
    artifact = export_model(folder, tmp_path / "artifact")
    assert graphs(artifact) == DEFAULT
    np.testing.assert_allclose(logits_of(artifact)[:, None], transformers_logits(folder, PAIRS), atol=1e-6)


def test_what_holds_is_exported_and_the_rest_is_named_with_its_figures(
    coarse: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = export_model(coarse, tmp_path / "artifact")
    manifest = read_manifest(artifact)
    assert graphs(artifact) == ["cpu fp32", "cuda fp16", "portable fp32"]
    (refusal,) = manifest.refused
    assert refusal.target == ("cpu", "int8")
    assert refusal.parity is not None
    assert refusal.parity.mean_abs > 0.2
    assert refusal.problems[0].startswith(f"max |Δlogit| {refusal.parity.max_abs:.3g}, allowed 0.26")
    assert caplog.messages == [f"coarse: left out cpu int8: {'; '.join(refusal.problems)}"]
    assert {name for name in files_of(artifact) if name.startswith("onnx/")} == {
        "onnx/model.onnx",
        "onnx/model_cpu_fp32.onnx",
        "onnx/model_cuda_fp16.onnx",
    }
    np.testing.assert_allclose(logits_of(artifact)[:, None], transformers_logits(coarse, PAIRS), atol=TOLERANCE)
    verify_artifact(artifact)


def test_graph_that_cannot_be_built_does_not_refuse_the_others(tmp_path: Path) -> None:
    """Weights beyond float16 leave the cuda graph nothing to hold."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "bert")
    tensors = read_tensors(checkpoint)
    for part in ("weight", "bias"):
        tensors[f"bert.encoder.layer.0.output.dense.{part}"] *= np.float32(1e9)
    write_tensors(checkpoint, tensors)
    manifest = read_manifest(export_model(checkpoint, tmp_path / "artifact"))
    assert ("cpu", "fp32") in {variant.target for variant in manifest.variants}
    refused = {refusal.target: refusal for refusal in manifest.refused}
    assert refused["cuda", "fp16"].problems[0].startswith("weights that are no numbers in float16")
    assert refused["cuda", "fp16"].parity is None


@pytest.mark.parametrize(
    ("variants", "kept"), [(["cpu"], ["cpu fp32"]), (["cpu", "portable"], ["cpu fp32", "portable fp32"])]
)
def test_variant_that_is_named_keeps_what_holds_of_it(
    coarse: Path, tmp_path: Path, variants: list[str], kept: list[str]
) -> None:
    assert graphs(export_model(coarse, tmp_path / "artifact", variants=variants)) == kept


def test_command_line_names_it_on_standard_error_and_succeeds(coarse: Path, tmp_path: Path) -> None:
    code = "import sys; from crossrank.export._cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(coarse), "-o", str(tmp_path / "artifact"), "--variants", "cpu"]
    for _ in range(2):  # the second finds the first's
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0
        assert done.stderr.startswith("coarse: left out cpu int8: max |Δlogit| ")
        assert done.stderr.count("\n") == 1
        row = next(line.split() for line in done.stdout.splitlines() if line.startswith("cpu int8"))
        assert row[2:3] == ["-"]  # of no size
        assert row[-1] == "refused"


# What fails.


@pytest.mark.parametrize("precisions", [["int8"], ["fp32", "int8"]])
def test_precision_that_is_named_must_hold(coarse: Path, tmp_path: Path, precisions: list[str]) -> None:
    with pytest.raises(ProofError, match=r"coarse is not exported, .*: 3 problems\n  - cpu int8: max ") as caught:
        export_model(coarse, tmp_path / "artifact", precisions=precisions)
    assert not (tmp_path / "artifact").exists()
    advice = str(caught.value).splitlines()[-1]
    if "fp32" in precisions:
        assert advice == (
            "Within their bounds are cpu fp32, portable fp32: variants=['cpu', 'portable'], precisions=['fp32'] asks "
            "for these (in a shell --variants cpu,portable --precision fp32); without options what holds is kept"
        )
        export_model(coarse, tmp_path / "artifact", variants=["cpu", "portable"], precisions=["fp32"])


def test_variant_of_which_nothing_holds_fails(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "bert")
    tensors = read_tensors(checkpoint)
    tensors["bert.encoder.layer.0.output.dense.weight"] *= np.float32(1e9)
    write_tensors(checkpoint, tensors)
    with pytest.raises(UnsupportedModelError, match=r"^weights that are no numbers in float16: layer\.0\.down\.weight"):
        export_model(checkpoint, tmp_path / "artifact", variants=["cpu", "cuda"])
    assert not (tmp_path / "artifact").exists()


# What a model that is loaded by its folder needs.


@pytest.mark.parametrize(
    ("options", "made"),
    [
        ({}, "cpu fp32"),
        ({"device": "cpu"}, "cpu fp32"),
        ({"precision": "fp32", "device": "cpu"}, "cpu fp32"),
        ({"precision": "int8"}, "cpu int8"),
        ({"precision": "fp16"}, "portable fp16"),
    ],
)
def test_model_exports_the_graph_that_it_needs(fine: Path, cache: Path, options: dict[str, Any], made: str) -> None:
    info = CrossEncoder(fine, **options).info()
    assert f"{info.variant} {info.precision}" == made
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert graphs(artifact_in(cache)) == [made]


@pytest.mark.parametrize("options", [{}, {"precision": "fp32", "device": "cpu"}])
def test_model_loads_where_only_another_graph_does_not_hold(coarse: Path, cache: Path, options: dict[str, Any]) -> None:
    np.testing.assert_allclose(
        CrossEncoder(coarse, **options).predict(list(PAIRS), activation_fn="identity")[:, None],
        transformers_logits(coarse, PAIRS),
        atol=TOLERANCE,
    )


def test_later_need_adds_a_graph_and_leaves_the_others_as_they_are(fine: Path, cache: Path) -> None:
    exact = logits_of(fine)
    folder = artifact_in(cache)
    engine = folder / "tensorrt" / "key" / "graph.engine"
    engine.parent.mkdir(parents=True)
    engine.write_bytes(b"minutes of work")
    names = ("onnx/model_cpu_fp32.onnx", "proof.json", "tensorrt/key/graph.engine")
    before = {name: ((folder / name).stat().st_ino, (folder / name).stat().st_mtime_ns) for name in names}
    coarse_logits = logits_of(fine, precision="int8")
    assert 0 < np.abs(coarse_logits - exact).max() < 0.3
    assert artifact_in(cache) == folder
    assert graphs(folder) == ["cpu fp32", "cpu int8"]
    assert {name: ((folder / name).stat().st_ino, (folder / name).stat().st_mtime_ns) for name in names} == before
    assert len({variant.parity.reference for variant in read_manifest(folder).variants if variant.parity}) == 1
    assert np.array_equal(logits_of(fine, precision="fp32"), exact)
    verify_artifact(folder)


def test_graph_that_was_damaged_meanwhile_is_made_again_with_the_one_that_is_added(fine: Path, cache: Path) -> None:
    exact = logits_of(fine)
    graph = artifact_in(cache) / "onnx" / "model_cpu_fp32.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    CrossEncoder(fine, precision="int8", device="cpu")
    assert graphs(artifact_in(cache)) == ["cpu fp32", "cpu int8"]
    verify_artifact(artifact_in(cache))
    assert np.array_equal(logits_of(fine, precision="fp32"), exact)


def test_what_auto_gives_does_not_depend_on_what_was_loaded_before(fine: Path, cache: Path) -> None:
    CrossEncoder(fine, precision="int8", device="cpu")
    assert graphs(artifact_in(cache)) == ["cpu int8"]
    assert CrossEncoder(fine, device="cpu").info().precision == "fp32"


def test_added_graph_has_the_length_of_the_others(fine: Path, cache: Path) -> None:
    export_model(fine, variants=["cpu"], precisions=["fp32"], max_length=20)
    info = CrossEncoder(fine, precision="int8", device="cpu").info()
    assert (info.precision, info.max_length) == ("int8", 20)
    assert graphs(artifact_in(cache)) == ["cpu fp32", "cpu int8"]


def test_graph_that_does_not_hold_is_refused_once_and_then_known(
    coarse: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exact = logits_of(coarse)
    messages = []
    manifest = artifact_in(cache) / "crossrank.json"
    inodes = [manifest.stat().st_ino]
    for _ in range(3):
        with pytest.raises(ProofError) as caught:
            CrossEncoder(coarse, precision="int8", device="cpu")
        messages.append(str(caught.value))
        inodes.append(manifest.stat().st_ino)
    assert inodes[0] != inodes[1]  # the record was written
    assert inodes[1] == inodes[2] == inodes[3]  # and not again, so that nothing was built
    assert messages[0].startswith(f"{coarse} is not exported, its graphs leave the bounds against ")
    assert messages[1] == messages[2]
    assert messages[1].startswith(
        "coarse: when it was exported, graphs left their bounds: 3 problems\n  - cpu int8: max "
    )
    for message in messages:
        assert message.endswith('Ask for another precision: precision="fp32" (in a shell --precision fp32)')
        assert "variants" not in message
    assert np.array_equal(logits_of(coarse), exact)


def test_export_by_name_of_what_was_refused_says_so_and_force_tries_again(coarse: Path, cache: Path) -> None:
    export_model(coarse)
    before = (artifact_in(cache) / "crossrank.json").stat().st_ino
    with pytest.raises(ProofError, match="when it was exported, graphs left their bounds"):
        export_model(coarse, precisions=["int8"])
    assert (artifact_in(cache) / "crossrank.json").stat().st_ino == before
    with pytest.raises(ProofError, match="is not exported"):
        export_model(coarse, precisions=["int8"], force=True)


def test_another_version_tries_again(coarse: Path, cache: Path) -> None:
    folder = export_model(coarse)
    edit_manifest(folder, lambda manifest: manifest.update(crossrank="0.0.1"))
    with pytest.raises(ProofError, match="is not exported"):
        CrossEncoder(coarse, precision="int8", device="cpu")
    assert np.isfinite(logits_of(coarse)).all()


def test_artifact_that_lacks_a_refused_graph_says_why(coarse: Path, tmp_path: Path) -> None:
    artifact = export_model(coarse, tmp_path / "artifact", variants=["cpu"])
    message = r"no graph for device cpu with precision 'int8' \(cpu int8: max \|Δlogit\| .*: refused when the model was"
    with pytest.raises(ArtifactError, match=message):
        CrossEncoder(artifact, precision="int8", device="cpu")


def test_precision_that_no_device_has_is_refused_before_anything_is_read(fine: Path, cache: Path) -> None:
    with pytest.raises(
        InputError, match=r"precision='int8' on cuda:0: the native exporter makes no such graph, but cpu"
    ):
        locate_model(fine, precision="int8", device=Device("cuda"))
    assert not list(cache.glob("*"))


def test_bench_measures_fp32_and_int8_of_a_checkpoint_and_exports_no_fp16_for_it(
    fine: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert crossrank_main(["bench", "-m", str(fine), "--documents", "1", "--seconds", "0.1", "--device", "cpu"]) == 0
    assert "cpu fp32, cpu int8" in capsys.readouterr().out
    assert graphs(artifact_in(cache)) == ["cpu fp32", "cpu int8"]


# Records that others wrote.


def test_record_with_terminal_escapes_is_refused(coarse: Path, tmp_path: Path) -> None:
    artifact = export_model(coarse, tmp_path / "artifact", variants=["cpu"])
    edit_manifest(artifact, lambda manifest: manifest["refused"][0].update(problems=["\x1b[2J"]))
    with pytest.raises(ArtifactError, match=r"refused\[0\]\.problems hold what cannot be printed"):
        CrossEncoder(artifact)


def test_manifest_without_records_is_read(fine: Path, tmp_path: Path) -> None:
    """As an older version wrote it."""
    artifact = export_model(fine, tmp_path / "artifact", variants=["cpu"], precisions=["fp32"])
    edit_manifest(artifact, lambda manifest: manifest.pop("refused"))
    assert read_manifest(artifact).refused == ()


# When the order of scores counts.


def parity_problems(reference: list[float], scores: list[float], precision: str) -> list[str]:
    first, second = (np.array(values, np.float32)[:, None] for values in (reference, scores))
    parity = compare_logits(first, second, second[:0], precision=precision, name="", graph="graph", provider="")
    return parity.problems(BOUNDS[precision])


@pytest.mark.parametrize(("precision", "step"), [("fp32", 5e-7), ("fp16", 5e-4), ("int8", 0.01)])
def test_order_counts_only_where_the_reference_differs_by_more_than_rounding(precision: str, step: float) -> None:
    swapped = [1, 0, 3, 2, 5, 4, 7, 6]
    near = [0.5 + step * i for i in range(8)]
    parity_of_far_ones = 1 - 2 * 4 / 28  # 4 of 28 pairs lie the other way round
    assert parity_problems(near, [near[i] for i in swapped], precision) == []
    apart = [0.5 + 3 * step * i for i in range(8)]
    (problem,) = parity_problems(apart, [apart[i] for i in swapped], precision)
    assert problem.startswith(f"1 - Kendall tau {1 - parity_of_far_ones:.3g}, allowed")


@pytest.mark.parametrize(("norm", "projection"), [("attn_norm", "attn.Wqkv"), ("mlp_norm", "mlp.Wi")])
def test_the_layer_of_an_outlying_channel_is_left_in_float_and_int8_holds(
    norm: str, projection: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", "modernbert", num_hidden_layers=8)
    tensors = read_tensors(folder)
    tensors[f"model.layers.3.{norm}.weight"][0] = OUTLIER
    tensors[f"model.layers.3.{projection}.weight"][:, 0] /= OUTLIER
    write_tensors(folder, tensors)
    artifact = export_model(folder, tmp_path / "artifact", variants=["cpu"])
    manifest = read_manifest(artifact)
    assert [variant.name for variant in manifest.variants] == ["cpu fp32", "cpu int8"]
    assert manifest.refused == ()
    exact, quantized = manifest.variants
    assert exact.float_layers == ()
    assert 3 in quantized.float_layers
    assert len(quantized.float_layers) <= 3
    named = f"layers {', '.join(map(str, quantized.float_layers))}"
    assert f"cpu int8: {named} in float" in format_parity_table(verify_artifact(artifact)[0])
    assert named in str(CrossEncoder(artifact, device="cpu", precision="int8").info())
    said = [record.getMessage() for record in caplog.records if "int8" in record.getMessage()][-1]
    assert "3" in said.removeprefix("cpu int8: of 8 layers these err most and are left in float: ").split(", ")


def test_what_a_gentler_graph_fails_with_leaves_the_others(
    coarse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ArtifactError("no such operator")

    made = native.read_native

    def gentle(*arguments: Any, **options: Any) -> Blueprint:
        return replace(made(*arguments, **options), gentler={("cpu", "int8"): [1]})

    monkeypatch.setattr(_convert, "read_native", gentle)
    monkeypatch.setattr(native, "layer_errors", fail)
    artifact = export_model(coarse, tmp_path / "artifact")
    manifest = read_manifest(artifact)
    assert graphs(artifact) == [name for name in DEFAULT if name != "cpu int8"]
    (refusal,) = manifest.refused
    assert (refusal.name, "no such operator" in str(refusal)) == ("cpu int8", True)


def test_measuring_leaves_no_graph_where_it_fails(fine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = read_checkpoint(fine)
    model = (checkpoint.weights, checkpoint.config, checkpoint.inputs)
    pairs = native._join(checkpoint, "calibration", 32)
    extremes = int8.calibrate(*model, pairs, tmp_path)

    def fail(*_: object) -> None:
        raise ArtifactError("no such operator")

    monkeypatch.setattr(int8, "Session", fail)
    with pytest.raises(ArtifactError):
        int8.calibrate(*model, pairs, tmp_path)
    with pytest.raises(ArtifactError):
        int8.layer_errors(*model, extremes, pairs, tmp_path)
    assert list(tmp_path.iterdir()) == []

"""``python -m benchmarks gpu``: its parts, its figures and what it says of them, rehearsed on the CPU."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks import ROOT
from benchmarks.__main__ import main, parse
from benchmarks.commands.gpu import (
    Part,
    all_parts,
    choose_parts,
    code_hash,
    identify,
    is_done,
    missing_data,
    run_apart,
    run_part,
    run_parts,
)
from benchmarks.inputs.models import CHECKPOINTS
from benchmarks.inputs.random_checkpoint import make_config
from benchmarks.measure.gpu.contenders import (
    FUSED,
    GRAPHS,
    PACKED,
    PADDED,
    ST_BF16,
    ST_DEFAULT,
    ST_LARGE,
    VARLEN,
    Keep,
    fixed_works,
    in_order,
    like_length,
    make_works,
    take_turns,
    text_work,
)
from benchmarks.measure.gpu.fused import build_fused
from benchmarks.measure.gpu.models import MODELS, QUALITY_MODEL, REPEATED, GpuModel, Place, write_graph
from benchmarks.measure.gpu.ours import joined_call, open_packed, packed_contender, settings_of
from benchmarks.measure.gpu.peers import attend_in_parts, attend_varlen, open_peers
from benchmarks.measure.gpu.tuning import captured_settings
from benchmarks.measure.kernels import printed_output, read_kernels
from benchmarks.measure.peaks import operations_per_pair
from benchmarks.measure.turns import Floats
from benchmarks.reporting.gpu import (
    GPU_GOALS,
    latency,
    markdown_report,
    ours,
    quality_loss,
    ratio,
    share_of_peak,
    short_tables,
    speed,
)
from crossrank import InputError
from crossrank._device.cuda.batches import choose_bucket, make_buckets, plan_packed_batches, shape_of
from crossrank._device.cuda.graph import DeviceGraph
from crossrank._device.inputs import padded_ids
from crossrank._machine.onnxruntime import ort
from crossrank.export._architectures.checkpoint import read_checkpoint
from crossrank.export._architectures.config import read_config
from crossrank.export._graphs.graph import save_model
from crossrank.models import find_model
from tests.support.references import needs_torch, reference
from tests.support.tiny_models import PAIRS, make_checkpoint, transformers_logits

torch, varlen = reference("torch"), reference("torch.nn.attention.varlen")

TOLERANCE = 2e-5  # of test_parity.py: float32 rounding of logits with a standard deviation of 1.5
QUERIES, DOCUMENTS = zip(*PAIRS, strict=True)


def tiny_model(folder: Path, architecture: str = "bert", **overrides: Any) -> GpuModel:
    checkpoint = make_checkpoint(folder / "checkpoint", architecture, **overrides)
    return GpuModel("bert-base", MODELS["bert-base"], read_checkpoint(checkpoint), False, Place(True, folder, folder))


def options_of(*arguments: str) -> argparse.Namespace:
    return parse(["gpu", *arguments])[1]


def no_measuring(place: Place, keep: Keep) -> None:
    keep("done", True)


# Operations, and what is timed


@pytest.mark.parametrize(
    ("key", "gflop"),
    [
        ("tinybert-l2", (0.070, 0.117, 0.671)),
        ("tinybert-l4", (0.76, 1.25, 5.97)),
        ("minilm-l6", (1.76, 2.87, 13.3)),
        ("tinybert-l6", (6.9, 11.2, 48.3)),
        ("bert-base", (13.8, 22.4, 96.6)),
        ("electra-base", (13.8, 22.4, 96.6)),
        ("bert-large", (49, 79, 335)),
    ],
)
def test_operations_are_those_of_the_design(key: str, gflop: tuple[float, ...]) -> None:
    """Worked out by hand for 80, 128 and 512 tokens; 1%: they are given with two or three digits."""
    model = find_model(MODELS[key].id)
    assert model is not None
    found = operations_per_pair(read_config(make_config(model)), np.array([80, 128, 512], np.int32)) / 1e9
    assert found == pytest.approx(gflop, rel=0.01)


def test_contenders_take_turns_and_one_that_fails_leaves_the_others() -> None:
    log: list[str] = []

    def call(name: str, value: float, *, fails_at: int = -1) -> list[Callable[[], Floats]]:
        def one(turn: int) -> Floats:
            log.append(f"{name}{turn}")
            if turn == fails_at:
                raise RuntimeError("no more")
            return np.array([value, 1.0], np.float32)

        return [lambda turn=turn: one(turn) for turn in range(3)]  # type: ignore[misc]

    series, failed = take_turns({"a": call("a", 0.0), "b": call("b", float("nan")), "c": call("c", 0, fails_at=1)})
    assert log == ["a0", "b0", "c0", "b1", "c1", "a1", "a2", "b2"]
    assert failed == {"c": "RuntimeError: no more"}
    assert [len(series[name].seconds) for name in "ab"] == [2, 2]  # the first warms up
    assert [series[name].not_finite for name in "ab"] == [0, 3]


def test_turns_end_at_the_limit_but_not_before_the_least() -> None:
    calls = [lambda: np.zeros(1, np.float32)] * 50
    series, _ = take_turns({"a": calls}, warm_up=2, limit_s=0, least=7)
    assert len(series["a"].seconds) == 7


def test_works_hold_the_same_pairs_in_every_form(tmp_path: Path) -> None:
    checkpoint = tiny_model(tmp_path).checkpoint
    first, second = make_works(checkpoint, 250, 2)
    assert (first.size, len(first.queries), len(first.tokens.lengths)) == (250, 3, 250)
    assert not set(first.documents) & set(second.documents)
    again = text_work(checkpoint, first.queries, first.documents)
    np.testing.assert_array_equal(first.joined.ids, again.joined.ids)
    (fixed,) = fixed_works(50, 12, 5, 1)
    assert (fixed.size, fixed.joined.lengths.tolist(), len(fixed.documents)) == (5, [12] * 5, 0)
    lengths = np.array([3, 9, 5], np.int32)
    batches = like_length(lengths, 2)
    assert [batch.tolist() for batch in batches] == [[1, 2], [0]]
    logits = in_order(batches, [np.array([[9.0], [5]], np.float32), np.array([[3.0]], np.float32)])
    assert logits.ravel().tolist() == lengths.tolist()


# Graphs and peers


@pytest.mark.parametrize("architecture", ["bert", "electra"])
def test_the_usual_fused_graph_equals_transformers(tmp_path: Path, architecture: str) -> None:
    overrides = {"embedding_size": 32, "hidden_size": 32} if architecture == "electra" else {}
    model = tiny_model(tmp_path, architecture, **overrides)
    save_model(build_fused(model.checkpoint.weights, model.checkpoint.config, dtype=np.float32), tmp_path / "f.onnx")
    session = ort.InferenceSession(tmp_path / "f.onnx", providers=["CPUExecutionProvider"])
    joined = text_work(model.checkpoint, QUERIES, DOCUMENTS).joined
    feed = {
        "input_ids": padded_ids(joined.ids, joined.lengths, 0),
        "token_type_ids": padded_ids(joined.types, joined.lengths, 0),
        "attention_mask": padded_ids(np.ones_like(joined.ids), joined.lengths, 0),
    }
    (logits,) = session.run(["logits"], feed)
    operators = {node.op_type for node in onnx.load(tmp_path / "f.onnx").graph.node}
    assert {"EmbedLayerNormalization", "Attention", "SkipLayerNormalization", "BiasGelu"} <= operators
    assert np.abs(logits - transformers_logits(model.folder, PAIRS)).max() <= TOLERANCE


@needs_torch
def test_peers_that_are_not_installed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    opened, unavailable = open_peers(tiny_model(tmp_path), tmp_path)
    assert [peer.name for peer in opened] == [VARLEN, FUSED]
    assert list(unavailable) == [ST_DEFAULT, ST_LARGE, ST_BF16]
    assert all("sentence_transformers" in reason for reason in unavailable.values())


@pytest.mark.parametrize("hidden", [32, 36])
def test_varlen_attention_pads_heads_and_keeps_their_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: int
) -> None:
    """torch has its kernel for GPUs alone; what stands for it here refuses other sizes and scales as it does."""

    def on_cpu(q: Any, k: Any, v: Any, offsets: Any, _: Any, longest: int, __: int) -> Any:
        assert q.shape[-1] % 8 == 0
        assert longest == offsets.diff().max()
        q, k, v = (part.transpose(0, 1)[None] for part in (q, k, v))
        found, _ = attend_in_parts(None, q, k, v, None, cu_seq_lens_q=offsets)
        return found[0]

    monkeypatch.setattr(varlen, "varlen_attn", on_cpu)
    rng = np.random.default_rng(0)
    q, k, v = (torch.from_numpy(rng.standard_normal((1, 2, 11, hidden // 2), np.float32)) for _ in range(3))
    offsets = torch.tensor([0, 4, 11], dtype=torch.int32)
    expected, _ = attend_in_parts(None, q, k, v, None, cu_seq_lens_q=offsets)
    found, _ = attend_varlen(None, q, k, v, None, cu_seq_lens_q=offsets, max_length_q=7)
    assert found.shape == (1, 11, 2, hidden // 2)
    torch.testing.assert_close(found, expected)


def test_packed_calls_keep_the_order_of_the_pairs(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    _, session = open_packed(model, write_graph(model, "packed", tmp_path), settings_of(model))
    logits = joined_call(session, text_work(model.checkpoint, QUERIES, DOCUMENTS))()
    assert np.abs(logits - transformers_logits(model.folder, PAIRS)).max() <= TOLERANCE


def test_batches_of_usual_texts_all_fit_the_captured_shapes(tmp_path: Path) -> None:
    """With a GPU's own settings, and lengths as texts of MS MARCO have them."""
    model = tiny_model(tmp_path, max_position_embeddings=512)
    model = replace(model, place=replace(model.place, rehearse=False))
    settings, lengths = captured_settings(model), np.random.default_rng(0).normal(95, 30, 8192)
    shapes = make_buckets(settings.bucket_tokens, 512)
    kept = np.clip(lengths, 20, 250).astype(np.int32)
    batches = plan_packed_batches(kept, max_tokens=settings.max_tokens)
    assert len(batches) > 40
    assert all(choose_bucket(shape_of(kept[index]), shapes) for index in batches)


# Kernels

# As AttentionKernelOptions::Print and AttentionKernelDebugInfo::Print write it; onnxruntime 1.24, two runs.
PRINTED = (
    "\x1b[36mAttentionKernelOptions: FLASH_ATTENTION=1 EFFICIENT_ATTENTION=1 TRT_FUSED_ATTENTION=0 MATH=1\x1b[0m\n"
    + "\x1b[36mOperator=PackedMultiHeadAttention Node=PackedMultiHeadAttention_12 DataType=fp16"
    " SdpaKernel=FLASH_ATTENTION\x1b[0m\n"
    * 2
    + "\x1b[36mOperator=PackedMultiHeadAttention Node=PackedMultiHeadAttention_31 DataType=fp16"
    " SdpaKernel=FLASH_ATTENTION\x1b[0m\n"
    "other output\n"
    "\x1b[36mOperator=Attention Node=Attention_3 DataType=fp32 SdpaKernel=MATH\x1b[0m\n"
)


def test_the_kernel_of_every_node_is_read_from_what_onnxruntime_prints() -> None:
    assert read_kernels(PRINTED) == {
        "Attention fp32": {"MATH": 1},
        "PackedMultiHeadAttention fp16": {"FLASH_ATTENTION": 2},
    }
    assert read_kernels("nothing of it") == {}


def test_older_versions_print_the_kernel_as_an_option_and_nothing_for_none() -> None:
    printed = (
        "Operator=MultiHeadAttention Node=a DataType=fp16 TRT_FUSED_ATTENTION=1\nOperator=Attention DataType=fp16\n"
    )
    assert read_kernels(printed) == {
        "Attention fp16": {"MATH": 1},
        "MultiHeadAttention fp16": {"TRT_FUSED_ATTENTION": 1},
    }


def test_what_libraries_print_is_caught_beside_what_python_prints(capfd: pytest.CaptureFixture[str]) -> None:
    with printed_output() as caught:
        os.write(1, b"from C\n")
    os.write(1, b"after\n")
    assert caught == ["from C\n"]
    assert capfd.readouterr().out == "after\n"


# Parts, and where a run goes on


def test_parts_are_every_model_and_what_explains_them() -> None:
    names = [part.name for part in all_parts()]
    assert names[:5] == ["facts", "tuning", "model-minilm-l6", "model-bert-base", "kernels"]
    assert names[-3:] == [f"model-{key}" for key in REPEATED]
    assert {f"model-{key}" for key in MODELS} | {"facts", "kernels", "quality", "tuning"} == set(names)
    assert all(part.estimate_s < 540 for part in all_parts())
    assert [part.name for part in choose_parts(["quality", "facts"])] == ["facts", "quality"]
    with pytest.raises(InputError, match="--parts speed: known are facts, tuning, model-minilm-l6, "):
        choose_parts(["speed"])


def test_a_result_stands_for_a_part_of_the_same_code_gpu_and_weights(tmp_path: Path) -> None:
    part, place, file = Part("facts", 1, no_measuring), Place(True, tmp_path, tmp_path), tmp_path / "facts.json"
    identity = identify(part, place)
    assert not is_done(file, identity, keep=False)
    run_part(part, place, file, options_of())
    assert is_done(file, identity, keep=False)
    assert not is_done(file, identity | {"rehearsal": False}, keep=True)
    assert not is_done(file, identity | {"gpu": "NVIDIA H200"}, keep=True)
    assert not is_done(file, identity | {"code": "other"}, keep=False)
    assert is_done(file, identity | {"code": "other"}, keep=True)
    assert is_done(file, identity | {"graphs": False}, keep=False)  # it holds more than is asked
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"identity": identity | {"graphs": False}}))
    assert not is_done(file, identity, keep=True)
    assert is_done(file, identity | {"graphs": False}, keep=True)
    file.write_text(file.read_text()[:-20])
    assert not is_done(file, identity, keep=True)


def test_results_say_with_which_weights_and_whether_with_graphs_they_were_taken(tmp_path: Path) -> None:
    folder = tmp_path / CHECKPOINTS[QUALITY_MODEL][1]
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    with_graphs, without = (Place(False, tmp_path, tmp_path, graphs=graphs) for graphs in (True, False))
    found = {part.name: (identify(part, with_graphs), identify(part, without)) for part in all_parts()}
    trained = {name for name, (identity, _) in found.items() if identity["weights"] == "published"}
    assert trained == {"quality", f"model-{QUALITY_MODEL}"}
    assert all(identity["graphs"] for identity, _ in found.values())
    assert {name for name, (_, identity) in found.items() if identity["graphs"]} == {"facts", "kernels"}


def test_a_model_without_its_main_contenders_is_not_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else is measured and kept, and the reason is named; sentence-transformers is not installed here."""
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    (part,) = choose_parts(["model-tinybert-l4"])
    place, file = Place(True, tmp_path, tmp_path, graphs=False), tmp_path / "m.json"
    expected = f"main contenders failed.*: {ST_DEFAULT}: ModuleNotFoundError: .*; {ST_LARGE}: "
    with pytest.raises(RuntimeError, match=expected):
        run_part(part, place, file, options_of())
    content = json.loads(file.read_text())
    assert content["complete"] is False
    assert ST_LARGE in content["failed"]
    assert set(content["sections"]["throughput"]["texts"]["contenders"]) == {PACKED, PADDED, FUSED}  # none captured
    assert not is_done(file, identify(part, place), keep=True)


def test_a_session_that_captures_nothing_is_no_contender_with_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(tmp_path)
    monkeypatch.setattr(DeviceGraph, "capture", lambda *_: 1 / 0)
    with pytest.raises(RuntimeError, match="no CUDA graph could be captured"):
        packed_contender(model, write_graph(model, "packed", tmp_path), graphs=True)


def test_only_quality_needs_the_measures_of_rankings() -> None:
    code = (
        "import sys; sys.modules['ir_measures'] = None; import benchmarks.commands.gpu, benchmarks.measure.gpu.figures"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_part_that_fails_leaves_what_it_did_and_is_not_done(tmp_path: Path) -> None:
    def fails(place: Place, keep: Keep) -> None:
        keep("first", 1)
        raise RuntimeError("lost in /home/me/x")

    part, place, file = Part("facts", 1, fails), Place(True, tmp_path, tmp_path), tmp_path / "facts.json"
    with pytest.raises(RuntimeError):
        run_part(part, place, file, options_of())
    content = json.loads(file.read_text())
    assert (content["sections"], content["failed"]) == ({"first": 1}, "RuntimeError: lost in x")
    assert not is_done(file, identify(part, place), keep=True)


def test_a_rehearsal_replaces_no_measured_result(tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    file.write_text(json.dumps({"benchmark": "gpu", "rehearsal": False}))
    with pytest.raises(InputError, match=r"facts\.json was measured on a GPU, a rehearsal would replace it"):
        run_part(Part("facts", 1, no_measuring), Place(True, tmp_path, tmp_path), file, options_of())


def test_the_code_is_known_without_its_history(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine/a.py").write_text("1")
    before = code_hash(tmp_path)
    (tmp_path / "engine/a.onnx").write_text("2")
    assert code_hash(tmp_path) == before
    (tmp_path / "engine/a.py").write_text("2")
    assert code_hash(tmp_path) != before
    assert code_hash(ROOT) == code_hash(ROOT)


def test_parts_that_do_not_fit_or_lack_data_are_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--parts", "quality", "model-bert-large", "--minutes", "1", "--output", str(tmp_path)]
    place = Place(False, tmp_path, tmp_path)
    parts = choose_parts(["quality", "model-bert-large"])
    assert run_parts(parts, place, tmp_path, options_of(*options)) == []
    said = capsys.readouterr().err
    assert "skipped: quality: no judged queries trec-dl19" in said
    assert "left for the next run: model-bert-large" in said
    (tmp_path / "data" / "trec-dl19").mkdir(parents=True)
    assert missing_data(parts[0], place) == "no trained checkpoint in the test data; set CROSSRANK_TEST_DATA"
    assert missing_data(parts[0], Place(True, tmp_path, tmp_path)) is None
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="there is a CUDA provider")
def test_without_a_gpu_the_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu", "--output", str(tmp_path)]) == 1
    assert "has no CUDAExecutionProvider" in capsys.readouterr().err


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="there is a CUDA provider")
def test_a_part_runs_in_a_process_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without a GPU it says so there: its options were understood."""
    options = options_of("--commit", "abc", "--no-graphs", "--bench", str(tmp_path))
    assert run_apart(choose_parts(["facts"])[0], tmp_path, options, 300) == 1
    assert "has no CUDAExecutionProvider" in capfd.readouterr().err


# Targets and tables


def figures(docs_per_s: float, *, not_finite: int = 0) -> dict[str, Any]:
    return {"docs_per_s": {"median": docs_per_s}, "not_finite": not_finite}


def model_sections(**speeds: dict[str, Any]) -> dict[str, Any]:
    return {
        "throughput": {
            "mean_pair_tokens": 90.0,
            "operations_per_pair": 2e9,
            **{form: {"contenders": found} for form, found in speeds.items()},
        }
    }


def calls(p50_ms: float, p99_ms: float) -> dict[str, Any]:
    return {"p50_ms": p50_ms, "p99_ms": p99_ms, "not_finite": 0}


SECTIONS: dict[str, Any] = {
    "facts": {"matmul": {"tflops": 800.0}},
    "model-minilm-l6": model_sections(
        model={GRAPHS: figures(120_000), PACKED: figures(150_000), VARLEN: figures(60_000), ST_LARGE: figures(30_000)},
        encoded={GRAPHS: figures(79_000), PACKED: figures(90_000)},
        texts={GRAPHS: figures(45_000), PADDED: figures(60_000), ST_DEFAULT: figures(4_000), ST_LARGE: figures(9_000)}
        | {ST_BF16: figures(8_000), FUSED: figures(10_000)},
    )
    | {
        "contenders": {GRAPHS: {}, PACKED: {}},
        "latency": {
            "100": {
                "contenders": {
                    **{f"{GRAPHS}: encoded": calls(3.2, 4), f"{PACKED}: encoded": calls(3.1, 9)},
                    **{f"{ST_DEFAULT}: texts": calls(20, 30), f"{ST_LARGE}: texts": calls(18, 40)},
                }
            }
        },
    },
    "kernels": {
        "minilm-l6": {
            "packed": {"PackedMultiHeadAttention fp16": {"FLASH_ATTENTION": 6}},
            "packed without FlashAttention": "RuntimeError: no kernel",
            "fused and padded": {"Attention fp16": {"EFFICIENT_ATTENTION": 5, "MATH": 1}},
        }
    },
    "quality": {
        "fp32 on the CPU": {"ndcg_at_10": 0.7216},
        "fp16 on the GPU": {"ndcg_at_10": 0.722},
        "agreement": {
            **{"max_abs_delta": 0.004, "kendall_tau": 0.9991, "trained": True, "not_finite": 0},
            **{"ndcg_at_10_loss": -0.0004},
        },
    },
}


def test_figures_are_those_of_crossrank_by_itself_beside_the_faster_baseline() -> None:
    assert ratio(SECTIONS, "minilm-l6") == 5.0  # not to the padded graph, and not to the slower batch size
    assert speed(SECTIONS, "minilm-l6", "model") == 120_000  # an ablation that is faster does not stand for it
    assert latency(SECTIONS, "minilm-l6", 100, "encoded") == (3.2, 4)
    assert share_of_peak(SECTIONS, "minilm-l6") == 0.3
    assert ratio(SECTIONS, "bert-base") is None


def test_without_captured_graphs_the_session_without_them_stands_for_crossrank(tmp_path: Path) -> None:
    without = {**SECTIONS["model-minilm-l6"], "contenders": {PACKED: {}}}
    sections = SECTIONS | {"model-minilm-l6": without}
    assert ours(sections, "minilm-l6") == PACKED
    assert speed(sections, "minilm-l6", "encoded") == 90_000
    write_parts(tmp_path, sections)
    assert "| MiniLM-L6, no CUDA graphs | 150,000 |" in markdown_report(tmp_path)


def test_figures_beside_logits_that_are_no_numbers_and_untrained_rankings_do_not_count() -> None:
    texts = {GRAPHS: figures(45_000, not_finite=1), ST_DEFAULT: figures(4_000)}
    broken = {"model-minilm-l6": model_sections(texts=texts) | {"contenders": {GRAPHS: {}}}}
    assert speed(broken, "minilm-l6", "texts") is None
    assert ratio(broken, "minilm-l6") is None
    untrained = SECTIONS | {"quality": {"agreement": {"trained": False, "not_finite": 0, "ndcg_at_10_loss": 0}}}
    assert quality_loss(untrained) is None


def test_goals_are_met_not_met_or_not_measured() -> None:
    states = {goal.claim: goal.check(SECTIONS).state for goal in GPU_GOALS}
    assert states.pop("MiniLM-L6, texts, docs/s to sentence-transformers fp16") == "met"
    assert states.pop("MiniLM-L6, encoded documents, docs/s") == "not met"
    assert states.pop("MiniLM-L6, texts, docs/s") == "met"
    assert states.pop("MiniLM-L6, encoded documents, p50 of 100 in ms") == "met"
    assert states.pop("MiniLM-L12, TREC DL 2019, nDCG@10 lost by fp16") == "met"
    assert set(states.values()) == {"not measured"}
    assert len(GPU_GOALS) == len(MODELS) + 9


def write_parts(folder: Path, sections: dict[str, Any] = SECTIONS, *, rehearsal: bool = False) -> None:
    for name, content in sections.items():
        part = {
            **{"benchmark": "gpu", "complete": True, "rehearsal": rehearsal, "commit": "abc", "date": "2026-01-01"},
            **{"identity": {"part": name, "gpu": "NVIDIA H100"}, "sections": content},
        }
        (folder / f"{name}.json").write_text(json.dumps(part))


def test_the_report_shows_what_was_measured(tmp_path: Path) -> None:
    write_parts(tmp_path)
    report = markdown_report(tmp_path)
    assert "| MiniLM-L6, texts, docs/s | ≥ 40,000 | 45,000 | met |" in report
    assert "| MiniLM-L6 | 120,000 | 79,000 | 45,000 | 8,000 | 9,000 | 5 | 10,000 fused | 4.5 | 30.0% |" in report
    assert "| MiniLM-L6 | texts | 45,000 | - | 60,000 | 9,000 | 8,000 | - | 10,000 | 10,000 fused | 4.5 | - |" in report
    joined = "| MiniLM-L6 | joined | 120,000 | 150,000 | - | 30,000 | - | 60,000 | - | 60,000 varlen | 2 | 30.0% |"
    assert joined in report
    assert "| MiniLM-L6 | 100 | 3.2 / 4 | 3.1 / 9 | - | - | 18 / 40 |" in report
    assert "| MiniLM-L6 | FLASH_ATTENTION x6 | failed | EFFICIENT_ATTENTION x5, MATH x1 | - | - |" in report
    assert "| both, published weights | +0.0004 | 4.0e-03 | 0.9991 | 0 |" in report
    assert "NVIDIA H100; fp16 products 800.0 TFLOP/s; 90.0 tokens a pair; commit abc, 2026-01-01." in report


def test_the_report_refuses_a_rehearsal_several_gpus_and_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="complete results of one GPU are needed, found are none"):
        markdown_report(tmp_path)
    write_parts(tmp_path)
    one = json.loads((tmp_path / "facts.json").read_text())
    (tmp_path / "facts.json").write_text(json.dumps(one | {"identity": {"gpu": "NVIDIA H200"}}))
    with pytest.raises(InputError, match="of one GPU are needed, found are of NVIDIA H100 and NVIDIA H200"):
        markdown_report(tmp_path)
    (tmp_path / "facts.json").write_text(json.dumps(one | {"rehearsal": True}))
    with pytest.raises(InputError, match="facts of a rehearsal, which measures nothing"):
        markdown_report(tmp_path)


def test_a_rehearsal_says_so_in_its_tables(tmp_path: Path) -> None:
    write_parts(tmp_path, rehearsal=True)
    printed = short_tables(tmp_path)
    assert printed.startswith("REHEARSAL on a CPU with tiny models: no figure means anything")
    assert "  met" not in printed
    assert printed.count("rehearsed") == 5


# All of a part


@needs_torch
def test_a_rehearsed_part_runs_every_contender_and_is_done_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model with heads that need padding: 20 of 24 for 26 of 32. 1e-4: float32 against float32, other kernels."""
    command = ["gpu", "--rehearse", "--parts", "model-tinybert-l4", "--bench", str(tmp_path)]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("REHEARSAL")
    results = tmp_path / "gpu-rehearsal" / "results"
    content = json.loads((results / "model-tinybert-l4.json").read_text())
    assert (content["rehearsal"], content["complete"]) == (True, True)
    sections = content["sections"]
    assert sections["unavailable"] == {}
    exact = (PACKED, GRAPHS, PADDED, ST_DEFAULT, ST_LARGE, VARLEN, FUSED)
    assert set(sections["contenders"]) == {*exact, ST_BF16}
    for name, row in sections["correctness"].items():
        assert row["nan_count"] == 0
        assert row["max_abs"] < (0.5 if name.startswith(ST_BF16) else 1e-4)
    assert set(sections["throughput"]["model"]["contenders"]) == {*exact, ST_BF16}
    assert set(sections["throughput"]["encoded"]["contenders"]) == {PACKED, GRAPHS, PADDED}
    assert sections["throughput-128"]["model"]["failed"] == sections["throughput-512"]["model"]["failed"] == {}
    assert main([*command, "--keep"]) == 0  # others may be changing the code meanwhile
    assert "done before: model-tinybert-l4" in capsys.readouterr().err
    with pytest.raises(InputError, match="of a rehearsal"):
        markdown_report(results)

"""The suite of benchmarks, which goes on where it was stopped, and the report; all results here are made up."""

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.__main__ import main, parse
from benchmarks.commands import suite
from benchmarks.commands.jobs import Outcome, run_jobs
from benchmarks.commands.suite import Cell, all_cells, arguments_of, is_done
from benchmarks.engines.registry import ENGINES, EngineUnavailable
from benchmarks.inputs.models import SHAPES
from benchmarks.measure.turns import Spread
from benchmarks.reporting import plots
from benchmarks.reporting.documents import (
    END,
    START,
    benchmarks_section,
    performance_section,
    readme_section,
    replace_part,
    write_report,
)
from benchmarks.reporting.goals import GOALS, TARGETS, Checked, Reached, load_goals
from benchmarks.reporting.result import RESULTS, Result, Results, read_result, read_results
from crossrank import InputError

NAMES = {
    "tinybert-l2": "TinyBERT-L-2",
    "minilm-l12": "MiniLM-L12",
    "bert-base": "BERT-base",
}
WEIGHTS = {"minilm-l12": "published"}
TORCH = ENGINES["st-torch-fp32"].name

Row = dict[str, Any]


def write_result(
    folder: Path, benchmark: str, model: str, size: int | None, rows: Mapping[str, Row], **more: Any
) -> Path:
    """A result as the commands write it; ``rows`` are by engine key and get their kind."""
    content = {
        "benchmark": benchmark,
        "date": "2026-11-23",
        "commit": "0123abc",
        "machine": {"cpu": "A processor", "cores": 2},
        "threads": 2,
        "rounds": 3,
        "calls_of_a_turn": 2,
        "model": {
            "name": NAMES.get(model, model),
            "weights": "published" if model == "minilm-l12" else "random, seed 0",
        },
        "data": {"name": "trec-dl19", "calls": 6},
        "engines": {ENGINES[key].name: {"kind": ENGINES[key].kind, **row} for key, row in rows.items()},
        "unavailable": {},
    }
    file = folder / (f"{benchmark}-{model}.json" if size is None else f"{benchmark}-{model}-{size}.json")
    file.write_text(json.dumps(content | more), encoding="utf-8")
    return file


def speed(docs_per_s: float, ratio: float, **more: Any) -> Row:
    return {"docs_per_s": {"median": docs_per_s}, "ratio": {"median": ratio}, "kendall_tau": 1.0, **more}


def throughput(folder: Path, model: str, ratios: Mapping[str, float], size: int = 100, **more: Any) -> Path:
    rows = {key: speed(1000 * ratio, ratio, share_of_peak=ratio / 10) for key, ratio in ratios.items()}
    return write_result(folder, "throughput", model, size, rows, **more)


def results_of(folder: Path) -> Results:
    return read_results(folder)


def reached(folder: Path, words: str) -> tuple[float | None, str, str]:
    """Figure, state and what was compared, of the one goal whose claim has these words."""
    (goal,) = (goal for goal in GOALS if words in goal.claim)
    checked = goal.check(results_of(folder))
    found = checked.reached
    return (None, checked.state, "") if found is None else (round(found.value, 4), checked.state, found.of)


DOCUMENTS = ("README.md", "docs/performance.md", "docs/gpu.md", "benchmarks/README.md")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


@pytest.fixture
def measured(folder: Path) -> Path:
    """Results of all commands."""
    ratios = {
        "crossrank-fp32": 4.5,
        "crossrank-int8": 8,
        "st-torch-fp32": 1,
        "fastembed-fp32": 2,
        "fastembed-qint8": 2.5,
    }
    why = {"flashrank int8": "its environment flashrank is absent: run make bench-env"}
    for model in NAMES:
        throughput(folder, model, ratios, unavailable=why)
    quality = {"ndcg_at_10": 0.7216, "mrr_at_10": 0.9}
    rows = {
        key: speed(20 * ratio, ratio, kendall_tau=0.9 + ratio / 100, quality=quality) for key, ratio in ratios.items()
    }
    write_result(folder, "throughput", "minilm-l12", 100, rows, unavailable=why)
    call = {"p50_ms": 9.0, "p95_ms": 10.0, "p99_ms": 11.0, "after_pause_p50_ms": 12.0, "calls": 100}
    expert = {"expert-onnxruntime-fp32": call | {"p50_ms": 9.5}}
    calls = {"crossrank-fp32": call | {"p50_ms": 2.0}, "fastembed-fp32": call} | expert
    write_result(folder, "latency", "tinybert-l2", 10, calls)
    peak = {"crossrank-fp32": 410, "fastembed-fp32": 1400}
    memory = {key: {"rss_mb": 300, "peak_rss_mb": value} for key, value in peak.items()}
    write_result(folder, "memory", "minilm-l12", None, memory)
    write_result(folder, "startup", "tinybert-l2", None, {"fastembed-fp32": {"total_s": {"median": 1.25}}})
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that a report is written into."""
    root = tmp_path / "checkout"
    for folder in ("benchmarks", "docs"):
        (root / folder).mkdir(parents=True)
    for name in DOCUMENTS:
        (root / name).write_text(f"# Title\n\n{START}\nold\n{END}\n\nthe rest\n", encoding="utf-8")
    return root


# --- results


def test_result_is_read_with_its_cell_and_every_number(folder: Path) -> None:
    rows = {"crossrank-int8": speed(38, 2.0, gflops=None, quality={"ndcg_at_10": 0.7}, precision="int8")}
    result = read_result(write_result(folder, "throughput", "bert-base", 1000, rows))
    assert isinstance(result, Result)
    assert (result.model, result.size, result.model_name) == ("bert-base", 1000, "BERT-base")
    assert (result.machine, result.threads) == ("A processor, 2 cores", 2)
    assert result.kinds == {"crossrank int8": "int8"}
    figures = {"docs_per_s.median": 38, "ratio.median": 2, "kendall_tau": 1, "quality.ndcg_at_10": 0.7}
    assert result.engines == {"crossrank int8": figures}
    assert result.figure("crossrank int8", "gflops") is None
    assert result.figure("absent", "ratio.median") is None


def test_foreign_files_are_passed_over(folder: Path) -> None:
    (folder / "quality-minilm-l12.json").write_text('{"benchmark": "quality"}', encoding="utf-8")
    (folder / "parity-minilm-l12.json").write_text('{"format": 1}', encoding="utf-8")
    assert list(read_results(folder)) == []


def test_committed_results_are_read() -> None:
    assert len(list(read_results(RESULTS))) > 10


def test_files_that_are_no_results_are_named_at_once(folder: Path) -> None:
    write_result(folder, "latency", "a", 10, {"crossrank-fp32": {"p50_ms": 1.0, "p95_ms": "fast"}})
    (folder / "memory-a.json").write_text('{"benchmark": "mem', encoding="utf-8")
    (folder / "memory-b.json").write_text('{"benchmark": "memory", "engines": {}}', encoding="utf-8")
    with pytest.raises(InputError) as raised:
        results_of(folder)
    message = str(raised.value)
    assert (
        "latency-a-10.json lacks what the report needs of its engines, data or machine: KeyError: 'p95_ms'" in message
    )
    assert "memory-a.json cannot be read" in message
    assert "memory-b.json lacks what the report needs" in message
    assert "run the suite again" in message


def test_results_of_short_calls_that_each_came_after_a_pause_are_left_out_and_taken_again(
    folder: Path, checkout: Path
) -> None:
    ours = Cell("throughput", "tinybert-l2", 100, ("crossrank-fp32",), (), 60.0)
    file = throughput(folder, "tinybert-l2", {"crossrank-fp32": 1.1}, calls_of_a_turn=1)
    throughput(folder, "minilm-l12", {"crossrank-fp32": 0.9, "st-torch-fp32": 0.1}, calls_of_a_turn=1)  # 0.11 s
    old = {name: value for name, value in CALL.items() if name != "after_pause_p50_ms"}
    write_result(folder, "latency", "tinybert-l2", 10, {"crossrank-fp32": old})
    results = results_of(folder)
    assert [result.model for result in results] == ["minilm-l12"]
    assert list(results.left_out) == ["latency-tinybert-l2-10.json", file.name]
    assert not is_done(ours, file, None)
    assert "Left out" in benchmarks_section(results)
    throughput(folder, "tinybert-l2", {"crossrank-fp32": 1.1}, calls_of_a_turn=2)
    assert results_of(folder).find("throughput", "tinybert-l2", 100)
    assert is_done(ours, file, None)


@pytest.mark.parametrize("engines", [[], None, {"crossrank fp32": 1}, {"crossrank fp32": None}])
def test_engines_of_another_shape_are_refused(folder: Path, engines: object) -> None:
    write_result(folder, "memory", "a", None, {}, engines=engines)
    with pytest.raises(InputError, match=r"(?s)memory-a\.json lacks .*engines"):
        results_of(folder)


# --- goals


def test_goal_is_met_or_not_by_its_figure(folder: Path) -> None:
    for ratio, state in ((4.2, "met"), (4.1, "not met")):
        throughput(folder, "tinybert-l2", {"crossrank-fp32": ratio, "st-torch-fp32": 1})
        expected = (ratio, state, f"crossrank fp32 / {TORCH}")
        assert reached(folder, "TinyBERT-L-2 fp32, docs/s to sentence-transformers") == expected


def test_best_peer_is_the_fastest_of_its_kind_and_none_of_ours(folder: Path) -> None:
    ratios = {"crossrank-fp32": 4.5, "crossrank-int8": 9, "crossrank-fp32-encoded": 6, "st-torch-fp32": 1}
    peers = {"fastembed-fp32": 1.5, "st-openvino-fp32": 2, "st-onnx-o3": 2.5, "st-openvino": 4, "fastembed-qint8": 3}
    throughput(folder, "tinybert-l2", ratios | peers)
    throughput(folder, "minilm-l12", ratios | peers)
    throughput(folder, "bert-base", ratios | {"st-onnx-o3": 7, "expert-openvino-int8": 3.5} | peers)
    openvino = "sentence-transformers openvino"
    assert reached(folder, "L-2 fp32, docs/s to the best exact") == (
        2.25,
        "not met",
        f"crossrank fp32 / {openvino} fp32",
    )
    assert reached(folder, "L-2 int8, docs/s to the best quant") == (3, "met", "crossrank int8 / fastembed qint8")
    assert reached(folder, "L12 int8, docs/s to the best quantized or bf16 peer as") == (
        2.25,
        "met",
        f"crossrank int8 / {openvino}",
    )
    assert reached(folder, "BERT-base int8, docs/s") == (2.25, "met", f"crossrank int8 / {openvino}")


def test_a_goal_beside_the_best_of_all_needs_an_expert_among_them(folder: Path) -> None:
    ratios = {"crossrank-int8": 9.0, "st-torch-bf16": 3.0}
    for model, claim in (("bert-base", "BERT-base int8"), ("ettin-17m", "ettin-reranker-17m int8")):
        throughput(folder, model, ratios)
        assert reached(folder, claim) == (None, f"not measured: no expert's peer in throughput of {model}", "")
        throughput(folder, model, ratios | {"expert-openvino-int8": 4.5})
        assert reached(folder, claim) == (2, "met", "crossrank int8 / expert openvino NNCF int8")


def test_ratio_does_not_depend_on_which_engine_ratios_are_to(folder: Path) -> None:
    throughput(folder, "tinybert-l2", {"crossrank-fp32": 2.1, "st-torch-fp32": 0.5, "st-onnx": 1})
    value, state, _ = reached(folder, "TinyBERT-L-2 fp32, docs/s to sentence-transformers")
    assert (value, state) == (4.2, "met")


def test_goals_of_latency_memory_startup_and_peak(measured: Path) -> None:
    assert reached(measured, "p50 of 10 documents to")[:2] == (0.2222, "met")
    assert reached(measured, "MiniLM-L12 fp32, peak memory")[:2] == (0.2929, "met")
    write_result(
        measured,
        "startup",
        "tinybert-l2",
        None,
        {"crossrank-fp32": {"total_s": {"median": 0.75}}, "fastembed-fp32": {"total_s": {"median": 1.25}}},
    )
    assert reached(measured, "load and first score") == (0.6, "not met", "crossrank fp32 / fastembed fp32")
    throughput(measured, "minilm-l12", {"crossrank-fp32": 10.4, "crossrank-int8": 5.9})
    assert reached(measured, "share of its fp32")[:2] == (1.04, "met")
    assert reached(measured, "share of its int8")[:2] == (0.59, "not met")


def test_long_calls_are_judged_by_the_precision_that_loses_more(folder: Path) -> None:
    for size, fp32, int8 in ((1000, 4.0, 8.0), (100_000, 4.1, 7.2)):
        throughput(folder, "tinybert-l2", {"crossrank-fp32": fp32, "crossrank-int8": int8}, size)
    expected = (0.9, "not met", "crossrank int8, 100,000 / 1,000 documents")
    assert reached(folder, "100,000 documents") == expected


def test_goal_without_its_figures_says_what_is_missing(folder: Path) -> None:
    throughput(folder, "tinybert-l2", {"crossrank-int8": 8}, unavailable={TORCH: "no torch here"})
    throughput(folder, "tinybert-l2", {"crossrank-fp32": 8, "crossrank-int8": 8}, 1000)
    claims = ("L-2 fp32, docs/s to sent", "encoded", "L-2 int8, docs/s to the best quant", "MiniLM-L12 fp32, peak")
    states = [reached(folder, words)[1] for words in claims]
    assert states == [
        "not measured: crossrank fp32: no ratio.median in throughput of tinybert-l2",
        "not measured: crossrank int8, encoded documents: no ratio.median in throughput of tinybert-l2",
        "not measured: no engine to compare with in throughput of tinybert-l2",
        "not measured: no memory of minilm-l12",
    ]
    assert reached(folder, "100,000")[1] == "not measured: no throughput of tinybert-l2 at 100,000 documents"
    throughput(folder, "tinybert-l2", {"crossrank-fp32": 8}, unavailable={TORCH: "no torch here"})
    assert reached(folder, "L-2 fp32, docs/s to sent")[1] == f"not measured: {TORCH}: no torch here"


def write_service(folder: Path) -> None:
    """A result of `service`, of a round in which all was as wanted, and something else nothing."""
    goals = load_goals("TinyBERT-L-2", "MiniLM-L12", "peer in a thread pool", 50)
    found = [Checked(goal, Reached(goal.wanted, spread=Spread(goal.wanted, 0.5, 1))).describe() for goal in goals[:-1]]
    targets = [*found, Checked(goals[-1], None).describe()]
    content = {"benchmark": "service", "targets": targets}
    (folder / "service-tinybert-l2.json").write_text(json.dumps(content), encoding="utf-8")


def test_goals_of_many_callers_are_shown_as_their_result_has_them(measured: Path) -> None:
    claim = "docs/s of 16 callers x 10 to 1 caller x 1,000, TinyBERT-L-2 fp32"
    assert reached(measured, claim) == (None, "not measured: no service of tinybert-l2", "")
    write_service(measured)
    assert reached(measured, claim) == (0.95, "met", "")
    section = benchmarks_section(results_of(measured))
    assert section.count(f"| {claim} | ≥ 95.0% | 95.0% | 50.0% | 100.0% | met |") == 2
    assert "| p99 of accepted at 3x capacity to p99 at 1x, requests of 10 | ≤ 2 | 2 | 0.5 | 1 | met |" in section
    assert "loaded, less one batch, of the deadline | ≤ 10.0% |  |  |  | not measured |" in section


def test_performance_page_says_of_each_target_what_was_measured_and_whether_it_is_met(measured: Path) -> None:
    section = performance_section(results_of(measured))
    assert all(f"| {goal.claim} |" in section for goal in TARGETS)
    assert set(TARGETS) <= set(GOALS)
    claim = "TinyBERT-L-2, p50 of 10 documents after a pause to the best peer's"
    assert f"| {claim} | ≤ 0.333 | 1 | not met | crossrank fp32 / " in section


def test_every_goal_names_engines_and_cells_that_the_suite_measures(folder: Path) -> None:
    for cell in all_cells():
        figures: Row = CALL | {"rss_mb": 1.0, "peak_rss_mb": 1.0}
        row = speed(1, 1, share_of_peak=1) | figures | {"total_s": {"median": 1.0}}
        model = f"{cell.model}-{cell.texts}" if cell.texts else cell.model
        write_result(folder, cell.command, model, cell.size, dict.fromkeys(cell.engines, row))
    write_service(folder)
    results = results_of(folder)
    assert [checked.state for checked in (goal.check(results) for goal in GOALS) if checked.reached is None] == []


# --- tables


def test_readme_table_has_speed_ratio_fidelity_latency_memory_and_startup(measured: Path) -> None:
    section = performance_section(results_of(measured))
    speeds = " | ".join(f"{name} docs/s" for name in NAMES.values())
    assert f"| engine | {speeds} | tau | nDCG@10 | p50 ms | after a pause | peak MB | start s |" in section
    ours = "4,500 (4.50) | 90 (4.50) | 4,500 (4.50) | 0.9450 | 0.7216 | 2.0 | 12.0 | 410 |  |"
    theirs = "2,000 (2.00) | 40 (2.00) | 2,000 (2.00) | 0.9200 | 0.7216 | 9.0 | 12.0 | 1,400 | 1.25 |"
    assert f"| **crossrank fp32** | {ours}" in section
    assert f"| fastembed fp32 | {theirs}" in section
    names = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| ")]
    begin = names.index("| engine")
    assert names[begin : begin + 4] == ["| engine", "| **crossrank fp32**", "| **crossrank int8**", f"| {TORCH}"]
    assert "MiniLM-L12, 6 calls on trec-dl19" in section
    assert "TinyBERT-L-2 and BERT-base in true size with random weights" in section
    assert "A processor, 2 cores, 2 threads; engines in turns, medians; commit 0123abc, 2026-11-23." in section
    assert "Not measured: flashrank int8 (its environment flashrank is absent: run make bench-env)." in section


def test_performance_page_has_what_seven_million_pairs_take(measured: Path) -> None:
    section = performance_section(results_of(measured))
    assert "| TinyBERT-L-2 int8 | 8,000 | 0.5 | 1 min |" in section  # 6.98 million / 8,000 a second, of two cores
    assert "| MiniLM-L12 fp32 | 90 | 43.1 | 90 min |" in section or "| MiniLM-L12 fp32 | 90 | 43.1 | 1.5 h |" in section


def test_readme_table_of_one_result_has_no_empty_columns(folder: Path) -> None:
    throughput(folder, "tinybert-l2", {"crossrank-fp32": 4.5, "st-torch-bf16": 0.0005})
    section = performance_section(results_of(folder))
    assert "| engine | TinyBERT-L-2 docs/s |\n|---|---|\n| **crossrank fp32** | 4,500 |" in section
    assert "| sentence-transformers torch bf16 | 0.5 |" in section, "no ratio without the baseline"


def test_figures_of_several_machines_and_commits_are_called_so(folder: Path) -> None:
    throughput(folder, "tinybert-l2", {"crossrank-fp32": 4.5})
    throughput(folder, "minilm-l12", {"crossrank-fp32": 4.5}, commit="fed", date="2026-11-25", threads=8)
    section = performance_section(results_of(folder))
    assert "A processor, 2 cores, 2 threads; A processor, 2 cores, 8 threads; " in section
    assert "commit 0123abc, fed, 2026-11-23 to 2026-11-25." in section


def test_benchmarks_readme_has_every_goal_with_its_figure_and_every_cell(measured: Path) -> None:
    throughput(measured, "bert-large", {"crossrank-fp32": 3, "st-torch-fp32": 1}, 1000)
    section = benchmarks_section(results_of(measured))
    assert all(f"| {goal.claim} |" in section for goal in GOALS)
    claim = "TinyBERT-L-2 fp32, docs/s to sentence-transformers torch fp32"
    assert f"| {claim} | ≥ 4.2 (5) | 4.5 | met | crossrank fp32 / {TORCH} |" in section
    claim = "TinyBERT-L-2 fp32, docs/s to the best exact peer as packaged"
    assert f"| {claim} | ≥ 3 | 2.25 | not met | crossrank fp32 / fastembed fp32 |" in section
    assert "| TinyBERT-L-2, p50 of 10 documents to the best peer's | ≤ 0.333 | 0.222 | met |" in section
    assert "|  | not measured: no throughput of tinybert-l2 at 100,000 documents |  |" in section
    assert f"| bert-large | 1,000 | 3,000 (3.00) |  |  |  | {TORCH}: 1,000 (1.00) |  |" in section
    assert "fastembed fp32: 2,000 (2.00) | fastembed qint8: 2,500 (2.50) |" in section
    peers = "expert onnxruntime fp32: 9.5 / 10.0 / 11.0, 12.0 |  | fastembed fp32: 9.0 / 10.0 / 11.0, 12.0 |  |"
    assert f"| TinyBERT-L-2 | 10 | 2.0 / 10.0 / 11.0, 12.0 | {peers}" in section
    why = "flashrank int8: its environment flashrank is absent: run make bench-env"
    assert f"| BERT-base | 100 | 3 x 2 | {TORCH}, fastembed fp32, fastembed qint8 | {why} |" in section


def test_readme_has_ours_beside_the_usual_ways_and_no_other_engine(measured: Path) -> None:
    rows = [line for line in readme_section(results_of(measured)).splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == [
        "| engine",
        "| **crossrank fp32**",
        "| **crossrank int8**",
        f"| {TORCH}",
    ]


def test_documents_begin_with_the_lead_over_the_best_expert_peer_in_a_table_of_its_own(measured: Path) -> None:
    ratios = {"crossrank-fp32": 4.0, "crossrank-int8": 6.0, "crossrank-int8-kernels": 9.0, "st-torch-fp32": 1.0}
    experts = {"expert-ctranslate2-fp32": 3.2, "expert-openvino-int8": 5.0, "expert-openvino-bf16": 6.0}
    throughput(measured, "minilm-l12", {**ratios, **experts, "crossrank-int8-encoded": 20.0, "st-onnx-qint8": 7.0})
    results = results_of(measured)
    for section in (readme_section(results), performance_section(results)):
        lead = section.index(
            "MiniLM-L12 int8, kernels: **1.50 times** openvino bf16; MiniLM-L12 fp32: **1.25 times** ct"
        )
        first, second = section.index("| engine |"), section.rindex("| engine |")
        assert lead < first < section.index("| expert openvino NNCF int8 |") < second < section.rindex(f"| {TORCH} |")
        assert "| expert" not in section[second:]
        assert section.count("| **crossrank int8, kernels** |") == 2
    assert "| MiniLM-L12 | 100 | 4,000 (4.00) | 6,000 (6.00) | 9,000 (9.00) | expert ct" in benchmarks_section(results)


def test_cpu_time_stands_beside_the_speed_and_the_load_below_the_table(folder: Path) -> None:
    rows = {"crossrank-fp32": speed(41.2, 2.26, cpu_ms_per_doc={"median": 48.49})}
    machine = {"cpu": "A processor", "cores": 2, "load_before": 3.1}
    write_result(folder, "throughput", "minilm-l12", 100, rows, machine=machine)
    write_result(folder, "throughput", "bert-base", 100, rows, machine=machine | {"busy_before": 0.02})
    section = readme_section(results_of(folder))
    assert "| **crossrank fp32** | 41 48.5 ms | 41 48.5 ms |" in section
    busy, load = (
        "cores that others took before 0.02 to 0.02",
        "load average before, where others' cores were not counted,",
    )
    assert f"2 threads; {busy}; {load} 3.1 to 3.1; engines in turns" in section


def test_engines_that_the_registry_no_longer_has_leave_the_tables(measured: Path) -> None:
    file = throughput(measured, "bert-base", {"crossrank-fp32": 2.0, "st-torch-fp32": 1.0})
    content = json.loads(file.read_text(encoding="utf-8"))
    content["engines"]["infinity torch fp32"] = {"kind": "exact", **speed(7000, 7)}
    file.write_text(json.dumps(content), encoding="utf-8")
    results = results_of(measured)
    assert "infinity" not in readme_section(results) + performance_section(results) + benchmarks_section(results)


# --- report


def test_report_stays_the_same_when_it_is_written_again(measured: Path, checkout: Path) -> None:
    written = []
    for _ in range(2):
        parts = write_report(results_of(measured), checkout, gpu=measured / "gpu")
        written.append({path: path.read_bytes() for path in sorted(checkout.rglob("*.*"))})
    assert written[0] == written[1]
    assert {path.name for path in written[0]} == {"README.md", "performance.md", "gpu.md"}
    assert "None of this has run on a GPU yet" in parts[2]
    text = (checkout / "README.md").read_text(encoding="utf-8")
    assert text == f"# Title\n\n{START}\n{parts[0]}\n{END}\n\nthe rest\n"


@pytest.mark.parametrize("text", ["", START, f"{END}\n{START}", f"{START}{START}{END}", f"{START}{END}{END}"])
def test_place_of_the_report_must_be_there_once(measured: Path, checkout: Path, text: str) -> None:
    readme = checkout / "benchmarks" / "README.md"
    readme.write_text(text, encoding="utf-8")
    before = (checkout / "README.md").read_bytes()
    with pytest.raises(InputError, match=r"one line <!-- benchmarks: start --> and after it one line"):
        write_report(results_of(measured), checkout, gpu=measured / "gpu")
    assert (checkout / "README.md").read_bytes() == before


def test_documents_of_this_checkout_have_a_place_for_the_report() -> None:
    for name in DOCUMENTS:
        replace_part(Path(__file__).parents[2] / name, "")


def test_report_of_nothing_names_the_suite(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--results", str(folder)]) == 1
    assert "run `python -m benchmarks suite`" in capsys.readouterr().err
    assert main(["report", "--results", str(folder / "absent")]) == 1
    assert "there is no such folder" in capsys.readouterr().err


# --- plot


def _contrast(first: str, second: str) -> float:
    """WCAG's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("background", ["#ffffff", "#0d1117"])
def test_plot_can_be_read_on_light_and_dark_pages(background: str) -> None:
    """WCAG wants 3 for large or bold text and for graphics; no colour has more than 4.35 on both of these."""
    assert _contrast(plots.TEXT, background) > 4.2
    assert _contrast(plots.OURS, background) > 4.2
    assert _contrast(plots.THEIRS, background) > 3


def test_plot_is_a_small_transparent_png() -> None:
    from matplotlib.image import imread

    models, curve = [plots.Point(30.0, 0.7, "big"), plots.Point(3000.0, 0.65, "small")], [plots.Point(90, 0.7, "k=10")]
    png = plots.draw_tradeoff(models, curve, curve="cascade", line=("BM25", 0.5), heading="nDCG@10")
    assert png.startswith(b"\x89PNG")
    assert 10_000 < len(png) < 100_000
    pixels = imread(io.BytesIO(png))  # float32 [height, width, 4], 0 to 1
    assert pixels[0, 0, 3] == 0
    solid = {tuple(pixel) for pixel in (pixels[pixels[..., 3] == 1][:, :3] * 255).round().astype(int).tolist()}
    colours = {tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in (plots.TEXT, plots.OURS, plots.THEIRS)}
    assert colours <= solid


# --- suite

CELLS = [
    Cell("latency", model, 10, ("crossrank-fp32", "st-torch-fp32"), ("--documents", "10"), 60.0)
    for model in ("a", "b", "c")
]
CALL = {"p50_ms": 1.0, "p95_ms": 1.0, "p99_ms": 1.0, "after_pause_p50_ms": 1.0}


def finish(cell: Cell, file: Path, **more: Any) -> int:
    """What a cell's process does when all goes well."""
    write_result(
        file.parent, cell.command, cell.model, cell.size, dict.fromkeys(cell.engines, CALL), code="abc", **more
    )
    return 0


def run_cells(
    cells: Sequence[Cell], folder: Path, launch: Callable[[Cell, Path], int] = finish, *, minutes: float | None = None
) -> Outcome:
    return run_jobs(cells, lambda cell, _: launch(cell, folder / f"{cell.name}.json"), minutes=minutes)


def todo(cells: Iterable[Cell], folder: Path, code: str | None = "abc") -> list[str]:
    return [cell.name for cell in cells if not is_done(cell, folder / f"{cell.name}.json", code)]


def test_interrupted_suite_goes_on_with_what_is_not_done(folder: Path) -> None:
    def launch(cell: Cell, file: Path) -> int:
        if cell.model == "b":
            file.write_text('{"benchmark": "latency", "commit": "0123abc", "eng', encoding="utf-8")
            raise KeyboardInterrupt
        return finish(cell, file)

    with pytest.raises(KeyboardInterrupt):
        run_cells(CELLS, folder, launch)
    assert todo(CELLS, folder) == ["latency-b-10", "latency-c-10"]
    assert run_cells(CELLS[1:], folder).failed == {}
    assert todo(CELLS, folder) == []


def test_failing_cell_is_reported_and_does_not_stop_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run_cells(CELLS, folder, lambda cell, file: 3 if cell.model == "a" else finish(cell, file))
    assert (outcome.failed, outcome.left) == ({"latency-a-10": 3}, [])
    assert todo(CELLS, folder) == ["latency-a-10"]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "[1/3] latency-a-10: 0 min gone, about 3 min to go"
    assert lines[1] == "latency-a-10 failed with exit status 3"
    assert lines[-1] == "[3/3] latency-c-10: 0 min gone, about 0 min to go", "by the pace of the first two"


def test_suite_begins_nothing_that_would_end_too_late(folder: Path) -> None:
    slow = Cell("latency", "d", 10, CELLS[0].engines, (), 1e9)
    outcome = run_cells([slow, *CELLS], folder, minutes=2)
    assert outcome.left == ["latency-d-10"], "the others, which fit, have run"
    assert todo(CELLS, folder) == []
    assert run_cells(CELLS, folder, minutes=0.5).left == [cell.name for cell in CELLS]


def test_result_of_other_code_is_done_only_if_kept(folder: Path) -> None:
    for cell in CELLS:
        finish(cell, folder / f"{cell.name}.json")
    assert todo(CELLS, folder) == []
    assert todo(CELLS, folder, "other") == [cell.name for cell in CELLS]
    assert todo(CELLS, folder, None) == []


def test_result_without_one_of_the_engines_is_not_done(folder: Path) -> None:
    cell, file = CELLS[0], folder / "latency-a-10.json"
    write_result(folder, "latency", "a", 10, {"crossrank-fp32": CALL})
    assert not is_done(cell, file, None)
    write_result(folder, "latency", "a", 10, {"crossrank-fp32": CALL}, unavailable={TORCH: "no torch"})
    assert is_done(cell, file, None)
    (folder / "old.json").write_text('{"benchmark": "latency"}', encoding="utf-8")
    assert not is_done(cell, folder / "old.json", None)


def test_service_is_done_once_it_is_of_this_code(folder: Path) -> None:
    (cell,) = (cell for cell in all_cells() if cell.command == "service")
    file = folder / "service-tinybert-l2.json"
    assert not is_done(cell, file, None)
    file.write_text('{"benchmark": "service", "code": "abc"}', encoding="utf-8")
    assert [is_done(cell, file, code) for code in (None, "abc", "other")] == [True, True, False]


def test_suite_says_whom_each_cell_measures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suite", "--list"]) == 0
    said = capsys.readouterr().out
    assert all(f"{cell.name}, " in said and f"    {' '.join(cell.engines)}\n" in said for cell in all_cells())


def test_commands_take_what_the_suite_gives_them(tmp_path: Path) -> None:
    for cell in all_cells():
        for judged in (True, False):
            _, options = parse(arguments_of(cell, tmp_path / f"{cell.name}.json", judged=judged, allow_load=judged))
            assert options.allow_load == judged
            assert (options.command, options.model) == (cell.command, cell.model)
            if cell.command != "service":
                assert tuple(options.engines) == cell.engines
            assert options.output.name == f"{cell.name}.json"
            if cell.size:
                assert options.documents == cell.size


def test_all_nine_shapes_have_ours_in_both_precisions_beside_an_expert_within_an_hour() -> None:
    cells = {cell.model: cell for cell in all_cells() if (cell.command, cell.size) == ("throughput", 100)}
    assert set(SHAPES) <= set(cells)
    for name in SHAPES:
        assert {"crossrank-fp32", "crossrank-int8", "st-torch-fp32", "expert-openvino-int8"} <= {*cells[name].engines}
    assert sum(cell.estimate_s for cell in all_cells()) < 3600


def test_what_engines_open_can_be_made_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []

    def model_folder(name: str, *_: object) -> None:
        made.append(name)
        if name == "crossrank-int8":
            raise EngineUnavailable("no int8 today")

    cell = Cell("latency", "tinybert-l2", 10, ("crossrank-fp32", "crossrank-int8", "st-torch-fp32"), (), 60.0)
    monkeypatch.setattr(suite, "all_cells", lambda: [cell])
    monkeypatch.setattr(suite, "RESULTS", tmp_path)
    monkeypatch.setattr(suite, "model_folder", model_folder)
    monkeypatch.setattr(suite, "open_benchmark_model", lambda *_: SimpleNamespace(folder=tmp_path, scratch=tmp_path))
    assert main(["suite", "--prepare"]) == 0
    assert made == ["crossrank-fp32", "crossrank-int8", ""]
    assert capsys.readouterr().err.splitlines() == ["tinybert-l2: no int8 today", "tinybert-l2 is prepared"]
    assert list(tmp_path.iterdir()) == [], "nothing is measured"

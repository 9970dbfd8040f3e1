"""The benchmarks' engines: one process each, spoken to in lines, and what happens when something is missing or dies."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Encoding, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from benchmarks import ROOT
from benchmarks.engines import environments
from benchmarks.engines.adapters._expert import Batch, calibration_pairs, pad, plan, scorer, width_of
from benchmarks.engines.conversions import model_folder
from benchmarks.engines.environments import ENVIRONMENTS, Environments
from benchmarks.engines.registry import CONVERSIONS, ENGINES, Conversion, EngineSpec, EngineUnavailable, WorkerError
from benchmarks.engines.worker import Worker
from benchmarks.inputs.workloads import make_workload
from tests.support.tiny_models import MAX_LENGTH, PAIRS, make_checkpoint, transformers_logits

FAKE = EngineSpec("fake", "tests.support.fake_adapter", "exact")
DOCUMENTS = ("a", "bbb")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return folder


def open_fake(checkpoint: Path, behaviour: str = "", spec: EngineSpec = FAKE, **more: Environments) -> Worker:
    scratch = checkpoint.parent / "scratch"
    return Worker(replace(spec, options={"behaviour": behaviour}), checkpoint, threads=3, scratch=scratch, **more)


def test_worker_scores_in_its_own_process_and_times_the_score_alone(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # with which a checkout's modules would be compiled each time
    with open_fake(checkpoint) as worker:
        call = worker.score("q", DOCUMENTS)
        assert call.scores.dtype == np.float32
        assert call.scores.tolist() == [0.5, 1.5]
        assert 0.05 <= call.seconds < 0.2, "preparing, which takes 0.2 s, is not in it"
        assert worker.versions == {"numpy": np.__version__}
        assert worker.facts == {"folder": "tiny", "threads": "3", "pools": "3 3 3", "bytecode": "kept", "made_by": ""}
        assert worker.stages["opened_s"] >= worker.stages["import_s"] + worker.stages["load_s"] > 0
        memory = worker.memory()
        assert 1 < memory["rss_mb"] <= memory["peak_rss_mb"] < 1000


def test_a_start_holds_no_more_than_what_a_user_of_crossrank_imports(checkpoint: Path) -> None:
    """Not the exporter, for one, which the adapter needs to convert: others' adapters import no converter either."""
    code = "import benchmarks.engines.serve, benchmarks.engines.adapters.crossrank, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "crossrank" in loaded
    assert not [name for name in loaded if name.startswith("crossrank.export") or name in ("subprocess", "venv")]


def test_what_an_engine_says_of_itself_is_not_in_the_time_of_its_start(checkpoint: Path) -> None:
    with open_fake(checkpoint, "describes itself slowly") as worker:
        assert worker.stages["opened_s"] < 1


def test_what_a_library_prints_or_reads_does_not_reach_the_protocol(checkpoint: Path) -> None:
    with open_fake(checkpoint) as worker:
        assert worker.score("print", DOCUMENTS).scores.tolist() == [0.5, 1.5]
        assert worker.score("naïve 日本 \ud800", ("\n", "")).scores.tolist() == [0.5, 0]


def test_failing_call_is_an_error_and_the_engine_goes_on(checkpoint: Path) -> None:
    with open_fake(checkpoint) as worker:
        with pytest.raises(WorkerError, match="fake: ValueError: no scores today"):
            worker.score("fail", DOCUMENTS)
        with pytest.raises(WorkerError, match="fake: 1 scores for 2 documents"):
            worker.score("lose one", DOCUMENTS)
        assert worker.score("q", ()).scores.tolist() == []


def test_engine_that_dies_during_a_call_is_an_error_that_says_how(checkpoint: Path) -> None:
    with open_fake(checkpoint) as worker:
        for _ in range(2):
            with pytest.raises(WorkerError, match="fake: its process ended by SIGKILL"):
                worker.score("die", DOCUMENTS)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("cannot be opened", "ModuleNotFoundError: No module named 'peer'"),
        ("dies while opening", "its process ended with exit code 3: the last words"),
    ],
)
def test_engine_that_cannot_be_opened_is_unavailable_with_the_reason(
    checkpoint: Path, behaviour: str, reason: str
) -> None:
    with pytest.raises(EngineUnavailable) as caught:
        open_fake(checkpoint, behaviour)
    assert str(caught.value) == reason


def test_absent_and_outdatedenvironments_make_an_engine_unavailable(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(FAKE, environment="fastembed")
    made = checkpoint.parent / "environments"
    elsewhere = Environments(made=made)
    with pytest.raises(EngineUnavailable, match="its environment fastembed is absent: run make bench-env"):
        open_fake(checkpoint, spec=spec, environments=elsewhere)
    (made / "fastembed").mkdir(parents=True)
    (made / "fastembed" / "made-from.txt").write_text("fastembed==0.1\n", encoding="utf-8")
    with pytest.raises(EngineUnavailable, match="is of other requirements than now: run make bench-env"):
        open_fake(checkpoint, spec=spec, environments=elsewhere)
    with pytest.raises(EngineUnavailable, match="there is no environment 'absent': known are experts, fastembed, "):
        open_fake(checkpoint, spec=replace(FAKE, environment="absent"))


@pytest.mark.slow
def test_one_environment_that_fails_leaves_the_others_standing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requirements = tmp_path / "requirements"
    requirements.mkdir()
    (requirements / "bad.txt").write_text("./absent-1.0-py3-none-any.whl\n", encoding="utf-8")
    (requirements / "good.txt").write_text("# nothing\n", encoding="utf-8")
    some = Environments(requirements, tmp_path / "made")
    assert environments.main(some) == 1
    printed = capsys.readouterr()
    assert "good: made in" in printed.out
    assert "bad: cannot be made\n" in printed.err
    assert "absent-1.0-py3-none-any.whl" in printed.err
    assert some.interpreter("good").exists()
    with pytest.raises(EngineUnavailable, match="bad is absent"):
        some.interpreter("bad")
    (requirements / "bad.txt").unlink()
    assert environments.main(some) == 0
    assert capsys.readouterr().out == "good: up to date\n"


def test_conversion_is_made_once_and_anew_for_another_checkpoint(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONVERSIONS, "first", Conversion("tests.support.fake_adapter"))
    monkeypatch.setitem(CONVERSIONS, "second", Conversion("tests.support.fake_adapter", source="first"))
    spec = replace(FAKE, model="second")

    def made_by() -> str:
        with open_fake(checkpoint, spec=spec) as worker:
            return worker.facts["made_by"]

    once = made_by()
    assert once.startswith("first "), "it starts from the conversion before"
    assert made_by() == once
    (checkpoint / "config.json").write_text('{"other": true}', encoding="utf-8")
    assert made_by() != once
    assert sorted(path.name for path in (checkpoint.parent / "scratch").iterdir()) == ["first", "second"]


def test_failed_conversion_makes_the_engine_unavailable_and_leaves_nothing(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONVERSIONS, "first", Conversion("tests.support.fake_adapter", options={"fails": True}))
    with pytest.raises(EngineUnavailable, match="first cannot be made of tiny: ValueError: no tool for that"):
        open_fake(checkpoint, spec=replace(FAKE, model="first"))
    assert not list((checkpoint.parent / "scratch").iterdir())


def test_every_engine_names_an_adapter_a_conversion_and_an_environment_that_exist() -> None:
    assert len({spec.name for spec in ENGINES.values()}) == len(ENGINES)
    entries: list[EngineSpec | Conversion] = [*ENGINES.values(), *CONVERSIONS.values()]
    for entry in entries:
        assert find_spec(f"benchmarks.engines.adapters.{entry.adapter}"), entry
        assert not entry.environment or ENVIRONMENTS.requirements_of(entry.environment), entry
        assert json.loads(json.dumps(asdict(entry))) == asdict(entry), "plain data"
    assert {spec.model for spec in ENGINES.values()} <= {"", *CONVERSIONS}
    used = {entry.environment for entry in entries} - {""} | {"infinity"}  # a server, of `serve`
    assert used == {path.stem for path in (ROOT / "benchmarks" / "environments").iterdir()} == {*ENVIRONMENTS.names()}


# Of the largest difference to transformers' float32 logits, whose standard deviation is 1.5. fp32: another order of
# sums. Approximate: GELU by tanh. bf16 keeps 8 bits of a number. int8: random weights round coarser than trained ones.
BOUNDS = {"exact": 1e-4, "approximate": 2e-3, "bf16": 0.2, "int8": 0.5}


def tiny_checkpoint(folder: Path, labels: int) -> Path:
    make_checkpoint(folder, "bert", labels=labels, seed=1)  # seed 0 with two labels fails our int8's proof
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    entries = sorted(vocabulary, key=lambda entry: vocabulary[entry])
    (folder / "vocab.txt").write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)], ids=["one-label", "two-labels"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A tiny BERT and how many labels it has."""
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", request.param), request.param


def check(key: str, tiny: tuple[Path, int]) -> None:
    """Score with the engine and compare with transformers, one pair at a time, so without padding."""
    checkpoint, labels = tiny
    # openvino-tokenizers writes beyond its end, and says so, where a query is longer than its documents.
    query = PAIRS[0][0] if key != "openvino-genai" else "a"
    # The slow tokenizer cuts some pairs elsewhere, as transformers says: texts that fit are compared.
    documents = tuple(document for _, document in PAIRS if len(document) < MAX_LENGTH and (document or query != "a"))
    logits = transformers_logits(checkpoint, [(query, document) for document in documents])
    expected = logits[:, 0] if labels == 1 else logits[:, 1] - logits[:, 0]
    spec = ENGINES[key]
    with Worker(spec, checkpoint, threads=1, scratch=checkpoint.parent / "scratch") as worker:
        call = worker.score(query, documents)
        np.testing.assert_allclose(call.scores, expected, rtol=0, atol=BOUNDS[spec.kind])
        assert call.seconds > 0
        assert worker.facts["precision"]
        assert worker.versions


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(key, marks=[pytest.mark.slow] if spec.kind == "int8" else [])  # its export takes seconds more
        for key, spec in ENGINES.items()
        if spec.adapter == "crossrank"
    ],
)
def test_our_engine_scores_as_transformers_does(key: str, tiny: tuple[Path, int]) -> None:
    try:
        check(key, tiny)
    except EngineUnavailable as error:  # of the graph alone, none may be
        if not ENGINES[key].options["kernels"] or "crossrank-kernels do not run here: " not in str(error):
            raise
        pytest.skip(str(error))


def test_experts_peers_stand_apart_and_bring_all_that_they_convert_with() -> None:
    experts = {key: spec for key, spec in ENGINES.items() if spec.expert}
    assert set(experts) == {key for key in ENGINES if key.startswith("expert-")} | {"openvino-genai"}
    for spec in experts.values():
        conversion = CONVERSIONS[spec.model]
        while conversion.source:
            assert conversion.environment == "experts"
            conversion = CONVERSIONS[conversion.source]


def pairs_of(*lengths: int) -> list[Encoding]:
    """Pairs of a word and so many others, with two special tokens."""
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "[SEP]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    template = TemplateProcessing(single="$A", pair="$A [SEP] $B:1 [SEP]:1", special_tokens=[("[SEP]", 2)])
    tokenizer.post_processor = template
    return tokenizer.encode_batch([("a", " ".join("a" * (length - 3))) for length in lengths])


def test_an_experts_batches_hold_each_pair_once_longest_first_and_keep_every_thread_busy() -> None:
    lengths = [*range(5, 200), 700, 2000]
    batches = list(plan(pairs_of(*lengths), threads=2, multiple=16))
    assert sorted(place for places, _ in batches for place in places) == list(range(len(lengths)))
    widths = [len(pairs[0]) for _, pairs in batches]
    assert widths == sorted(widths, reverse=True)
    for places, pairs in batches:
        assert [len(pair) for pair in pairs] == [lengths[place] for place in places]
        assert len(pairs) == 1 or len(pairs) * width_of(pairs[0], 16) <= 1024
    assert [len(places) for places, _ in plan(pairs_of(*[20] * 10), threads=2)] == [5, 5], "not one for one thread"
    assert list(plan([], threads=2)) == []


def test_an_experts_batch_is_padded_to_its_longest_pair_in_steps() -> None:
    arrays = pad(pairs_of(6, 4), ("token_type_ids", "input_ids", "attention_mask", "other"), 8)
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "input_ids": [[1, 2, 1, 1, 1, 2, 0, 0], [1, 2, 1, 2, 0, 0, 0, 0]],
        "attention_mask": [[1] * 6 + [0] * 2, [1] * 4 + [0] * 4],
        "token_type_ids": [[0, 0, 1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0]],
    }
    assert list(pad(pairs_of(4), ("input_ids",))) == ["input_ids"]


@pytest.mark.parametrize("labels", [1, 2])
def test_an_experts_scores_come_back_in_the_callers_order(checkpoint: Path, labels: int) -> None:
    tokenizer = Tokenizer.from_file(str(make_checkpoint(checkpoint.parent / "bert", "bert") / "tokenizer.json"))
    tokenizer.no_padding()

    def lengths(batches: list[Batch]) -> list[np.ndarray]:
        return [np.array([[0.0, len(pair)][-labels:] for pair in pairs]) for _, pairs in batches]

    documents = ["the " * n for n in (3, 40, 1, 7)]
    scores = scorer(tokenizer, 2, lengths)("a", documents)
    assert scores.tolist() == [len(pair) for pair in tokenizer.encode_batch([("a", text) for text in documents])]


def test_calibration_texts_of_experts_are_none_that_is_measured() -> None:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    assert len(calibration_pairs(tokenizer)) > 200
    lines = (ROOT / "export" / "texts" / "calibration.jsonl").read_text(encoding="utf-8").splitlines()
    calibrated = {json.loads(line)["document"] for line in lines}
    workload = make_workload(None, documents=100, warm_up=2, rounds=5, calls=3)
    measured = {text for calls in (workload.warm_up, *workload.rounds) for call in calls for text in call.documents}
    assert not calibrated & measured


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key, spec in ENGINES.items() if spec.adapter != "crossrank"])
def test_peer_scores_as_transformers_does_within_its_precision(key: str, tiny: tuple[Path, int]) -> None:
    environment = ENGINES[key].environment
    for needed in {environment, *(["sentence-transformers-onnx"] if ENGINES[key].model.startswith("onnx") else [])}:
        try:
            ENVIRONMENTS.interpreter(needed)
        except EngineUnavailable as error:
            pytest.skip(str(error))
    if tiny[1] == 2 and key in ("fastembed-fp32", "fastembed-qint8", "openvino-genai"):
        with pytest.raises(EngineUnavailable, match=r"this model has 2"):
            check(key, tiny)
    else:
        check(key, tiny)


@pytest.mark.slow
def test_a_peers_export_is_found_again(tiny: tuple[Path, int]) -> None:
    checkpoint, _ = tiny
    scratch = checkpoint.parent / "scratch"
    try:
        first = model_folder("onnx-qint8", checkpoint, scratch)
    except EngineUnavailable as error:
        pytest.skip(str(error))
    written = {path: path.stat().st_mtime_ns for path in first.rglob("*.onnx")}
    assert [path.name for path in written] == ["model_qint8_avx512_vnni.onnx"]
    again = model_folder("onnx-qint8", checkpoint, scratch)
    assert {path: path.stat().st_mtime_ns for path in again.rglob("*.onnx")} == written

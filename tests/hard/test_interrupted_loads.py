"""Time limits that come while a model is loaded or exported: they reach the caller, and pass for no file's failure."""

import inspect
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from crossrank import CrossEncoder
from crossrank.export import export_model
from crossrank.export._exporters.native import read_native
from tests.hard.test_interrupts import PACKAGE
from tests.support.artifacts import make_artifact
from tests.support.references import needs_torch
from tests.support.tiny_models import make_checkpoint

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarms on this system")
# Of these an `except OSError` or `except ValueError` takes one for the failure of what it tried.
KINDS = (TimeoutError, ValueError, RuntimeError, KeyError)


class Alarm:
    """Raises SIGALRM at one of the entries and ends of our functions that this thread comes by, counted from 1."""

    def __init__(self, at: int) -> None:
        self._left, self.where = at, ""

    def __enter__(self) -> "Alarm":
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        # In a generator that is thrown away half used Python ignores all exceptions.
        if not frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code.co_flags & inspect.CO_GENERATOR:
            return None
        if event in ("call", "return"):
            self._left -= 1
            if self._left == 0:
                self.where = f"{event} {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
                signal.raise_signal(signal.SIGALRM)
        return self._trace


def interrupt_everywhere(work: Callable[[], object], step: int) -> None:
    """``work`` comes to a time limit at every so manieth event, once each, until it ends before that."""
    before = signal.getsignal(signal.SIGALRM)
    lost = []
    try:
        for at in range(1, 1_000_000, step):
            error = KINDS[at % len(KINDS)]("time is up")

            def handle(number: int, frame: FrameType | None) -> None:
                raise error  # noqa: B023  (the loop waits for it)

            signal.signal(signal.SIGALRM, handle)
            with Alarm(at) as alarm:
                try:
                    work()
                except Exception as caught:
                    if caught is not error:
                        lost.append(f"{alarm.where}: {type(error).__name__} became {caught!r:.80}")
                else:
                    if alarm.where:
                        lost.append(f"{alarm.where}: {type(error).__name__} was lost")
            if not alarm.where:
                break
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not lost, "\n".join(lost)


@pytest.mark.parametrize("step", [61, pytest.param(7, marks=pytest.mark.slow)])
def test_a_time_limit_comes_out_of_a_load(tmp_path: Path, step: int) -> None:
    folder = make_artifact(tmp_path)
    interrupt_everywhere(lambda: CrossEncoder(folder, device="cpu", threads=1), step)


@pytest.mark.parametrize("step", [211, pytest.param(7, marks=pytest.mark.slow)])
def test_a_time_limit_comes_out_of_an_export(tmp_path: Path, step: int) -> None:
    make_checkpoint(tmp_path / "checkpoint", "bert")
    options: dict[str, Any] = {"variants": ["cpu"], "precisions": ["fp32"], "force": True}
    interrupt_everywhere(lambda: export_model(tmp_path / "checkpoint", tmp_path / "artifact", **options), step)


def test_a_time_limit_comes_out_of_what_reads_a_checkpoint_and_gathers_its_faults(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "bert")
    interrupt_everywhere(lambda: read_native(folder, None, max_length=None), 23)


@needs_torch
@pytest.mark.parametrize("name", ["AutoTokenizer", "AutoModelForSequenceClassification"])
def test_a_time_limit_that_comes_while_transformers_works_comes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    transformers = pytest.importorskip("transformers")
    checkpoint, kind = make_checkpoint(tmp_path / "checkpoint", "bert"), getattr(transformers, name)
    load = kind.from_pretrained

    def slow(*arguments: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGALRM)
        return load(*arguments, **options)

    def handle(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("time is up")

    monkeypatch.setattr(kind, "from_pretrained", slow)
    before = signal.signal(signal.SIGALRM, handle)
    try:
        with pytest.raises(TimeoutError, match="time is up"):
            export_model(checkpoint, tmp_path / "artifact", variants=["cpu"], precisions=["fp32"])
    finally:
        signal.signal(signal.SIGALRM, before)

"""Work beside its caller: begun at once, on a thread where one can be had, and as good as done by the caller."""

import re
from pathlib import Path
from shutil import copytree
from threading import Event, Thread, current_thread

import pytest

from crossrank import CrossEncoder, ModelError
from crossrank._artifact.origin import EMBEDDED_MODEL
from crossrank._machine.beside import beside


def test_work_is_done_while_its_caller_does_something_else() -> None:
    begun, asked = Event(), Event()

    def work() -> tuple[bool, Thread]:
        begun.set()
        return asked.wait(30), current_thread()

    result = beside(work)
    assert begun.wait(30)
    asked.set()
    done, thread = result()
    assert done
    assert thread is not current_thread()
    assert not thread.daemon, "at its end the interpreter would take it from under compiled code"


@pytest.mark.parametrize(
    "error", [ValueError("no tokenizer"), KeyboardInterrupt(), type("Panic", (BaseException,), {})()]
)
def test_what_the_work_raises_is_raised_where_its_result_is_asked_for(error: BaseException) -> None:
    def work() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        beside(work)()
    assert caught.value is error


def test_where_no_thread_can_be_had_a_model_is_loaded_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(Thread, "start", refuse)
        model = CrossEncoder(device="cpu")
    assert len(model.rank("a query", ["one", "two"])) == 2


def test_of_two_damaged_files_of_a_model_the_tokenizers_is_named(tmp_path: Path) -> None:
    folder = copytree(EMBEDDED_MODEL, tmp_path / "model")
    (graph,) = folder.glob("onnx/*.onnx")
    for file in (graph, folder / "tokenizer.json"):  # their sizes stay, which the manifest knows
        file.write_bytes(b"\0" * 1000 + file.read_bytes()[1000:])
        with pytest.raises(ModelError, match=re.escape(str(file))):
            CrossEncoder(folder, device="cpu")

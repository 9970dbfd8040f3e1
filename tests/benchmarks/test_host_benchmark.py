"""``python -m benchmarks host``: the host's time, on any machine."""

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.commands.host import open_without_graph


def test_it_prints_the_time_of_a_document_encoded_and_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host", "--documents", "20", "300", "--calls", "2"]) == 0
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()[1:5]]
    assert [line[:2] for line in lines] == [["encoded", "20"], ["encoded", "300"], ["texts", "20"], ["texts", "300"]]
    assert all(float(line[2]) > 0 for line in lines)
    assert "ns a character by remembered words" in printed


def test_a_model_that_computes_nothing_goes_the_way_of_a_gpu() -> None:
    model = open_without_graph()
    model.warm_up()
    before = model.stats()
    np.testing.assert_array_equal(model.score("a question", ["one text", "another"]), [0, 0])
    assert (model.stats().tokens > before.tokens, model.info().device) == (True, "cpu")

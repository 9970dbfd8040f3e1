"""What the documents show is what the programs do."""

from pathlib import Path

import pytest

from tests.support.document_outputs import ARTIFACT, DOCUMENTS, SHOWN, blocks, mask, run
from tests.support.references import PROVEN_BY
from tests.support.trained_models import Trained


def test_list_of_models_is_shown_as_it_is(tmp_path: Path) -> None:
    assert blocks(*DOCUMENTS)["export-model --list"] == run("export-model --list", tmp_path)


@pytest.mark.parametrize("command", [f"crossrank {name} {ARTIFACT}" for name in ("info --model", "verify")])
def test_output_is_shown_as_it_is(trained: Trained, tmp_path: Path, command: str) -> None:
    """But for the names of model and reference, and for numbers, which are those of the machine."""
    (tmp_path / ARTIFACT).symlink_to(trained.artifact)
    shown = blocks(*DOCUMENTS)[command].replace(SHOWN, trained.checkpoint.name)
    assert mask(shown.replace("transformers 5.24.0", PROVEN_BY)) == mask(run(command, tmp_path))

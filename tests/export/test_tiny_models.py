"""The small models of the tests are what transformers would build."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.references import auto_classifier
from tests.support.tiny_models import ARCHITECTURES, PAIRS, SPREAD, make_checkpoint, transformers_logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("labels", "overrides"), [(1, {}), (2, {"max_position_embeddings": 64}), (3, {})])
def test_every_parameter_is_transformers_own_and_the_logits_are_spread(
    tmp_path: Path, architecture: str, labels: int, overrides: dict[str, Any]
) -> None:
    folder = make_checkpoint(tmp_path, architecture, labels=labels, **overrides)
    model, loading = auto_classifier().from_pretrained(folder, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(parameter.std() > 0 for parameter in model.parameters() if parameter.numel() > 1)
    assert transformers_logits(folder, PAIRS).std(axis=0) == pytest.approx([SPREAD] * labels, rel=1e-5)

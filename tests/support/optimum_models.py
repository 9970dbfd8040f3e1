"""Small seeded checkpoints of architectures that the native builder does not know, as `tests.support.tiny_models`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from tests.support.references import reference
from tests.support.tiny_models import (
    MAX_LENGTH,
    PAIRS,
    SPREAD,
    draw_parameter,
    transformers_logits,
    write_json,
    write_tokenizer,
)

torch = reference("torch")


@dataclass(frozen=True, slots=True)
class _Family:
    """How transformers names an architecture's parts, and the fields of its config.json that matter."""

    config: str
    model: str
    fields: dict[str, Any]


_SIZES = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 2}
# Both with BERT's tokenizer.
_FAMILIES = {
    "squeezebert": _Family("SqueezeBertConfig", "SqueezeBertForSequenceClassification", {"embedding_size": 32}),
    "albert": _Family("AlbertConfig", "AlbertForSequenceClassification", {"embedding_size": 16}),
}


def make_checkpoint(
    folder: Path, architecture: str, *, labels: int = 1, max_length: int = MAX_LENGTH, **overrides: Any
) -> Path:
    """Write a small random checkpoint as its authors would publish it.

    Args:
        folder: Made if it is absent.
        architecture: "squeezebert" or "albert".
        labels: Outputs of the head.
        max_length: Most tokens of a pair.
        overrides: Fields of the architecture's config.json.

    Returns:
        ``folder``, with config.json, model.safetensors, tokenizer.json and tokenizer_config.json.
    """
    family = _FAMILIES[architecture]
    tokenizer = write_tokenizer(folder, "bert", max_length=max_length)
    fields = _SIZES | family.fields | {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": max_length}
    fields |= {"pad_token_id": tokenizer.token_to_id("[PAD]")} | overrides
    config = getattr(transformers, family.config)(**fields, num_labels=labels)
    model = getattr(transformers, family.model)(config).eval()
    rng = np.random.default_rng([17, labels])
    for name, parameter in model.named_parameters():
        parameter.data.copy_(torch.from_numpy(draw_parameter(name, parameter.shape, rng)))

    def save() -> None:
        model.save_pretrained(folder)
        # transformers 5 writes what older ones do not read; published files have these fields.
        labelled = {"num_labels": labels, "id2label": {str(i): f"LABEL_{i}" for i in range(labels)}}
        about = {"model_type": architecture, "architectures": [family.model]}
        write_json(folder / "config.json", about | fields | labelled)

    save()
    spread = transformers_logits(folder, PAIRS, max_length=max_length).std(axis=0)
    model.classifier.weight.data *= torch.from_numpy(SPREAD / spread)[:, None]
    save()
    return folder

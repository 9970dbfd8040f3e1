"""Choose the teacher's layers that the student starts from: leave out, one after the other, the least missed.

    python models/crossrank-mini-en/training/layers.py --teacher FOLDER --texts FOLDER --output FILE.json

A layer is missed as far as the scores without it correlate less with the teacher's, on pairs of the TREC queries that
the student learns from. Nothing is trained: a BERT layer adds to its input, so that the next one can do without it.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from encoder import Encoder, Weights
from pairs import keep_apart
from safetensors.torch import load_file
from texts import read_texts
from tokenizers import Tokenizer
from torch import Tensor
from train import Batch, make_batches

_PAIRS_PER_QUERY = 12
_LENGTHS = 14  # the most frequent ones
_BATCH_TOKENS = 3072


def sample_batches(teacher: Path, texts: Path) -> list[Batch]:
    """Pairs of the queries to learn from, one batch of each frequent length."""
    passages, queries = read_texts(texts)
    rng = random.Random(0)
    apart = keep_apart(queries)
    learned = [query for query in queries if query.source == "trec" and query not in apart]
    pairs = [(query.text, place) for query in learned for place in rng.sample(query.passages, _PAIRS_PER_QUERY)]
    tokenizer = Tokenizer.from_file(str(teacher / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(160)
    batches = make_batches(tokenizer, pairs, passages, _BATCH_TOKENS)
    return sorted(batches, key=lambda batch: -len(batch.places))[:_LENGTHS]


def scores(weights: Weights, layers: Sequence[int], heads: int, batches: Sequence[Batch]) -> Tensor:
    """Logits of all pairs by some of the layers, float32 [pairs]."""
    model = Encoder(weights, layers, heads)
    with torch.no_grad():
        return torch.cat([model(batch.ids, batch.types).logits for batch in batches])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    parser = argparse.ArgumentParser(description="Choose the layers that crossrank-mini-en starts from.")
    parser.add_argument("--teacher", type=Path, required=True, help="checkpoint folder of ms-marco-MiniLM-L12-v2")
    parser.add_argument("--texts", type=Path, required=True, help="folder of the texts to distil on")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json", help="what is left after each step")
    options = parser.parse_args(arguments)
    weights = {name: tensor.float() for name, tensor in load_file(options.teacher / "model.safetensors").items()}
    config = json.loads((options.teacher / "config.json").read_text(encoding="utf-8"))
    heads, left = config["num_attention_heads"], list(range(config["num_hidden_layers"]))
    batches = sample_batches(options.teacher, options.texts)
    wanted = scores(weights, left, heads, batches)

    def correlation(layers: Sequence[int]) -> float:
        return float(torch.corrcoef(torch.stack([scores(weights, layers, heads, batches), wanted]))[0, 1])

    steps = []
    while len(left) > 4:
        best, dropped = max((correlation([i for i in left if i != layer]), layer) for layer in left)
        left.remove(dropped)
        steps.append({"layers": list(left), "correlation": round(best, 4)})
        print(f"{len(left)} layers left: {left}, correlation {best:.4f}", flush=True)
    even = [0, 2, 4, 6, 8, 11]
    result = {
        "pairs": len(wanted),
        "steps": steps,
        "taken_evenly": {"layers": even, "correlation": round(correlation(even), 4)},
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

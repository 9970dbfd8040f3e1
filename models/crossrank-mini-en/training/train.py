"""Train crossrank-mini-en: distil a cross-encoder into its own layers, and export the student as int8.

    python models/crossrank-mini-en/training/train.py --teacher FOLDER --texts FOLDER --out FOLDER

The student takes six of the teacher's twelve layers and is trained to repeat the teacher's logits and hidden states on
pairs that both see once. The layers were chosen by leaving out, one after the other, the layer whose absence changes
the teacher's scores least: see layers.py.

OUT gets the student as a checkpoint and as an artifact, what was measured, the TREC queries kept apart, and the state
of the training, from which the same command goes on after an interruption.
"""

import argparse
import hashlib
import json
import platform
import random
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from encoder import Encoder, States
from pairs import HeldOut, Pair, choose_pairs
from safetensors.torch import load_file, save_file
from texts import Query, read_texts
from tokenizers import Tokenizer
from torch import Tensor
from vocabulary import choose_tokens, count_tokens, prune_tokenizer

from crossrank import CrossEncoder
from crossrank._artifact.parity import kendall_tau
from crossrank.export import export_model

NAME = "crossrank-mini-en"
_SAVE_EVERY_S, _PRINT_EVERY_S = 300, 30


@dataclass(frozen=True, slots=True)
class Recipe:
    """Every choice of the training.

    Attributes:
        layers: The teacher's layers that the student starts from.
        targets: Student's layer -> the teacher's layer whose hidden states it is to repeat.
        pairs: How many pairs to learn from.
        vocabulary: Entries of the student's vocabulary.
        max_length: Tokens of a pair in training; the student itself takes what the teacher takes.
        batch_tokens: Tokens of a step.
        learning_rate: Its largest value, after the warm-up; it falls to 0 linearly.
        warm_up: Steps.
        score_variance: What the squared error of the logits is divided by.
        row_weight: Of the [CLS] row behind the last layer in the loss.
        seed: Of all that is random.
    """

    layers: tuple[int, ...] = (0, 1, 5, 6, 7, 8)
    targets: tuple[tuple[int, int], ...] = ((2, 5), (3, 6), (4, 7))
    pairs: int = 60_000
    vocabulary: int = 20_400
    max_length: int = 160
    batch_tokens: int = 3072
    learning_rate: float = 1.5e-4
    warm_up: int = 60
    score_variance: float = 10.0
    row_weight: float = 0.1
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Batch:
    """Pairs of one length.

    Attributes:
        places: Which pairs these are.
        ids: int64 [pairs, tokens].
        types: int64 [pairs, tokens].
    """

    places: list[int]
    ids: Tensor
    types: Tensor


def make_batches(tokenizer: Tokenizer, pairs: Sequence[Pair], passages: Sequence[str], tokens: int) -> list[Batch]:
    """Batches of one length each, about as many tokens in each."""
    encodings = tokenizer.encode_batch([(query, passages[place]) for query, place in pairs])
    alike: dict[int, list[int]] = defaultdict(list)
    for i, encoding in enumerate(encodings):
        alike[len(encoding.ids)].append(i)
    batches = []
    for length, places in alike.items():
        size = max(1, tokens // length)
        for start in range(0, len(places), size):
            part = places[start : start + size]
            ids, types = ([getattr(encodings[i], name) for i in part] for name in ("ids", "type_ids"))
            batches.append(Batch(part, torch.tensor(ids), torch.tensor(types)))
    return batches


def distillation_loss(student: States, teacher: States, recipe: Recipe, progress: float) -> tuple[Tensor, list[float]]:
    """The loss of a batch, and its parts: logits, [CLS] row, hidden states.

    Errors of hidden states are relative to the teacher's mean square. Their weight falls to 0 in the course of the
    training: they lead the student early, and only the scores count in the end.
    """
    score = F.mse_loss(student.logits, teacher.logits)
    row = _relative_error(student.row, teacher.row)
    errors = [_relative_error(student.hidden[ours], teacher.hidden[theirs]) for ours, theirs in recipe.targets]
    hidden = torch.stack(errors).mean()
    loss = score / recipe.score_variance + recipe.row_weight * row + (1 - progress) * hidden
    return loss, [score.item(), row.item(), hidden.item()]


def _relative_error(found: Tensor, wanted: Tensor) -> Tensor:
    wanted = wanted.float()
    return F.mse_loss(found.float(), wanted) / wanted.square().mean()


def distil(teacher: Encoder, student: Encoder, batches: Sequence[Batch], recipe: Recipe, state_file: Path) -> float:
    """Train the student on every batch once, in the order given; goes on from ``state_file`` where there is one.

    Returns:
        The seconds it took, those of interrupted runs up to their last state too.
    """
    weights = list(student.parameters())
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    first, spent = 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        if state["recipe"] != repr(recipe):
            raise ValueError(f"{state_file} is the state of another recipe, {state['recipe']}: choose another --out")
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        first, spent = state["step"], state["seconds"]
        print(f"going on behind step {first}", flush=True)
    started = printed = saved = time.monotonic()
    parts: list[list[float]] = []
    pairs = 0
    ours, theirs = zip(*recipe.targets, strict=True)
    for step in range(first, len(batches)):
        batch, progress = batches[step], step / len(batches)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * min((step + 1) / recipe.warm_up, 1 - progress)
        with torch.no_grad():
            wanted = teacher(batch.ids, batch.types, theirs)
        loss, errors = distillation_loss(student(batch.ids, batch.types, ours), wanted, recipe, progress)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        parts.append(errors)
        pairs += len(batch.places)
        now = time.monotonic()
        if now - printed > _PRINT_EVERY_S or step + 1 == len(batches):
            score, row, hidden = np.mean(parts, axis=0)
            speed = pairs / (now - started)
            print(
                f"step {step + 1} of {len(batches)}, {speed:.1f} pairs/s, squared error of logits {score:.3f}, "
                f"[CLS] row {row:.3f}, hidden states {hidden:.3f}",
                flush=True,
            )
            printed, parts = now, []
        if now - saved > _SAVE_EVERY_S or step + 1 == len(batches):
            state = {"student": student.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"step": step + 1, "seconds": spent + now - started, "recipe": repr(recipe)}
            torch.save(state, state_file.with_suffix(".part"))
            state_file.with_suffix(".part").replace(state_file)
            saved = now
    return spent + time.monotonic() - started


def write_checkpoint(student: Encoder, teacher_folder: Path, folder: Path, kept: list[int]) -> None:
    """The student as a checkpoint folder that transformers and export-model read."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((teacher_folder / "config.json").read_text(encoding="utf-8"))
    config |= {"num_hidden_layers": len(student.layers), "vocab_size": len(kept)}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    tokenizer_config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    tokenizer_config["model_max_length"] = config["max_position_embeddings"]
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config) + "\n", encoding="utf-8")
    save_file(student.weights(), folder / "model.safetensors", metadata={"format": "pt"})


def write_held_out(file: Path, passages: Sequence[str], held_out: Sequence[HeldOut]) -> None:
    """The TREC queries kept apart with their first retriever's 100 passages, to choose a cascade's depth on."""
    entries = []
    for number, entry in enumerate(held_out):
        if entry.query.source == "trec":
            hits = [
                {"qid": f"held-out-{number}", "docid": str(place), "rank": rank, "content": passages[place]}
                for rank, place in enumerate(entry.query.passages[:100], 1)
            ]
            entries.append({"query": entry.query.text, "hits": hits})
    file.write_text(json.dumps(entries, indent=1, ensure_ascii=False), encoding="utf-8")


def agreement(teacher: Path, student: Path, passages: Sequence[str], held_out: Sequence[HeldOut]) -> dict[str, float]:
    """Kendall's tau of the student's ranking to the teacher's, the mean over queries kept apart, by their source."""
    models = [CrossEncoder(teacher, precision="fp32"), CrossEncoder(student)]
    taus: dict[str, list[float]] = defaultdict(list)
    for entry in held_out:
        documents = [passages[place] for place in entry.candidates]
        wanted, found = (model.score(entry.query.text, documents) for model in models)
        taus[entry.query.source].append(kendall_tau(wanted, found))
    means = {source: float(np.mean(found)) for source, found in taus.items()}
    return {"all": float(np.mean([tau for found in taus.values() for tau in found])), **means}


def kept_pairs(
    passages: Sequence[str], queries: Sequence[Query], recipe: Recipe, file: Path
) -> tuple[list[Pair], list[HeldOut]]:
    """The pairs to learn from and the queries kept apart, from ``file`` where an earlier run has left them."""
    made_of = hashlib.sha256(repr((recipe.seed, passages, queries)).encode()).hexdigest()
    if not file.exists():
        print(f"{len(passages):,} passages, {len(queries):,} queries; searching candidates takes minutes", flush=True)
        pairs, held_out = choose_pairs(passages, queries, recipe.seed)
        chosen = {
            "made_of": made_of,
            "pairs": pairs,
            "held_out": [[queries.index(entry.query), entry.candidates] for entry in held_out],
        }
        file.with_suffix(".part").write_text(json.dumps(chosen), encoding="utf-8")
        file.with_suffix(".part").replace(file)
    chosen = json.loads(file.read_text(encoding="utf-8"))
    if chosen["made_of"] != made_of:
        raise ValueError(f"{file} was made of other texts or with another seed: choose another --out")
    pairs = [(query, place) for query, place in chosen["pairs"]]
    return pairs[: recipe.pairs], [HeldOut(queries[i], tuple(places)) for i, places in chosen["held_out"]]


def train(teacher_folder: Path, texts: Path, out: Path, recipe: Recipe) -> None:
    """The whole recipe, from texts to an artifact."""
    started = time.monotonic()
    checkpoint = out / "checkpoint" / NAME
    checkpoint.mkdir(parents=True, exist_ok=True)
    passages, queries = read_texts(texts)
    pairs, held_out = kept_pairs(passages, queries, recipe, out / "pairs.json")
    whole = Tokenizer.from_file(str(teacher_folder / "tokenizer.json"))
    whole.no_truncation()
    whole.no_padding()
    kept = choose_tokens(
        whole, count_tokens(whole, [*passages, *sorted({query for query, _ in pairs})]), recipe.vocabulary
    )
    prune_tokenizer(teacher_folder / "tokenizer.json", checkpoint / "tokenizer.json", kept)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(recipe.max_length)
    batches = make_batches(tokenizer, pairs, passages, recipe.batch_tokens)
    random.Random(recipe.seed).shuffle(batches)
    print(f"{len(pairs):,} pairs in {len(batches):,} batches; {len(held_out)} queries are kept apart", flush=True)

    weights = {name: tensor.float() for name, tensor in load_file(teacher_folder / "model.safetensors").items()}
    words = "bert.embeddings.word_embeddings.weight"
    weights[words] = weights[words][kept]
    config = json.loads((teacher_folder / "config.json").read_text(encoding="utf-8"))
    heads, depth = config["num_attention_heads"], config["num_hidden_layers"]
    teacher, student = Encoder(weights, range(depth), heads), Encoder(weights, recipe.layers, heads)
    seconds = distil(teacher, student, batches, recipe, out / "state.pt")

    write_checkpoint(student, teacher_folder, checkpoint, kept)
    artifact = export_model(checkpoint, out / NAME, variants=["cpu"], precisions=["int8"])
    write_held_out(out / "held-out-trec.json", passages, held_out)
    print("comparing with the teacher on the queries kept apart", flush=True)
    taus = agreement(teacher_folder, artifact, passages, held_out)
    report = {
        "recipe": asdict(recipe),
        "pairs": len(pairs),
        "steps": len(batches),
        "seconds_of_training": round(seconds),
        "seconds_of_this_run": round(time.monotonic() - started),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("torch", "tokenizers", "bm25s", "crossrank")},
        "kendall_tau_to_teacher": taus,
        "queries_kept_apart": len(held_out),
    }
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"{artifact}: Kendall's tau to the teacher {taus['all']:.3f} on queries kept apart")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    parser = argparse.ArgumentParser(description="Train crossrank-mini-en and export it as int8.")
    parser.add_argument("--teacher", type=Path, required=True, help="checkpoint folder of ms-marco-MiniLM-L12-v2")
    parser.add_argument("--texts", type=Path, required=True, help="folder of the texts to distil on")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results; an older state there goes on")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own)")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    train(options.teacher, options.texts, options.out, Recipe())
    return 0


if __name__ == "__main__":
    sys.exit(main())

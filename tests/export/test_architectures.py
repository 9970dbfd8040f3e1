"""An architecture is one file: a made-up one is exported, proven and scored without a change anywhere else.

It differs from BERT in all that a family may: fields, tensors, embeddings, positions, attention, the order of norms,
feed-forward and head. Below stands all that is said of it: `MadeUp`, and its forward pass `MadeUpPass`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from crossrank import CrossEncoder, ProofError, UnsupportedModelError
from crossrank._artifact.manifest import read_manifest
from crossrank._proof import verify_artifact
from crossrank.export import export_model
from crossrank.export._architectures.base import Family, Tensors
from crossrank.export._architectures.registry import architectures
from crossrank.export._graphs.encoder import (
    Attention,
    Body,
    Embeddings,
    EncoderConfig,
    FeedForward,
    Head,
    Layer,
)
from crossrank.export._graphs.layers import Linear, Norm, dense
from crossrank.export._graphs.layouts.base import Layout
from crossrank.export._prove import reference
from crossrank.export._prove.passes.activations import activate
from crossrank.export._prove.passes.base import Bert
from crossrank.export._prove.passes.registry import passes
from tests.support.renamed import RENAMED
from tests.support.tiny_models import ARCHITECTURES, PAIRS, SPREAD, write_json, write_tokenizer

ROOT = Path(__file__).resolve().parents[2]
# As in test_parity.py.
TOLERANCE = 2e-5
HIDDEN, INNER, HEADS, LAYERS, WINDOWS = 32, 48, 4, 2, (3, 12)
HEAD_SIZE = HIDDEN // HEADS

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class MadeUpConfig(EncoderConfig):
    pooling: str = "cls"


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens see each other up to a distance."""

    reach: int

    @property
    def name(self) -> str:
        return f"window.{self.reach}"

    def by_distance(self, distances: NDArray[np.int64]) -> Floats:
        return np.where(np.abs(distances) <= self.reach, 0, -1e4).astype(np.float32)[..., None]


@dataclass(frozen=True, slots=True)
class TurnedAttention(Attention):
    """Queries and keys are turned by their positions; a key adds the mean of its numbers to its scores."""

    def write(self, layout: Layout, hidden: str) -> str:
        graph = layout.graph
        query, key, value = layout.project(hidden, self)
        parts = graph.add("Reshape", layout.by_pair(key), graph.integers(0, 0, HEADS, HEAD_SIZE))
        sums = graph.add("Transpose", graph.add("ReduceSum", parts, graph.integers(3), keepdims=0), perm=[0, 2, 1])
        means = graph.add("Unsqueeze", graph.add("Div", sums, graph.scalar(HEAD_SIZE)), graph.integers(2))
        bias = graph.add("Add", means, layout.bias(self.bias))  # [pairs, heads, longest, longest]
        return layout.attend(self.turn(layout, query), self.turn(layout, key), value, bias)

    def turn(self, layout: Layout, projected: str) -> str:
        graph, half = layout.graph, HEAD_SIZE // 2
        angles = np.arange(layout.config.positions)[:, None] * 100.0 ** (-np.arange(half) / half)
        cos, sin = np.cos(angles), np.sin(angles)
        tables = {"cos": np.concatenate([cos, cos], axis=1), "sin": np.concatenate([-sin, sin], axis=1)}
        by_cos, by_sin = (
            layout.position_rows(name, np.tile(table, HEADS).astype(np.float32)) for name, table in tables.items()
        )
        order = np.roll(np.arange(HIDDEN).reshape(HEADS, 2, half), 1, axis=1).ravel()
        swapped = graph.add("Gather", projected, graph.constant("swapped", order), axis=-1)
        return graph.add("Add", graph.add("Mul", projected, by_cos), graph.add("Mul", swapped, by_sin))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated(FeedForward):
    gate: Linear

    def write(self, layout: Layout, hidden: str, residual: str) -> str:
        inner, gate = layout.dense(hidden, (self.up, self.gate), self.up.name)
        active = layout.graph.add("Mul", layout.activate(inner), gate)
        (outer,) = layout.dense(active, (self.down,), self.down.name)
        return layout.graph.add("Add", outer, residual)

    def set_apart(self, units: NDArray[np.intp]) -> FeedForward:
        return self


@dataclass(frozen=True, slots=True)
class PreNormLayer(Layer):
    def write(self, layout: Layout, hidden: str) -> str:
        context = self.attention.write(layout, layout.normalize(hidden, self.attention_norm))
        (attended,) = layout.dense(context, (self.attention.output,), self.attention.output.name)
        rows = layout.graph.add("Add", layout.needed_rows(hidden), attended)
        return self.feed_forward.write(layout, layout.normalize(rows, self.output_norm), rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledHead(Head):
    norm: Norm
    pooling: str

    @property
    def pools(self) -> bool:
        return self.pooling == "mean"

    def write(self, layout: Layout, hidden: str) -> str:
        assert self.dense is not None
        rows = layout.normalize(hidden, self.norm)
        row = layout.mean_rows(rows) if self.pools else layout.first_rows(rows)
        return dense(layout.graph, layout.activate(dense(layout.graph, row, self.dense)), self.classifier)


class MadeUp(Family):
    types = ("made-up",)
    prefix = "made."
    config = MadeUpConfig
    fields: ClassVar[Mapping[str, str]] = {
        **{"vocabulary": "words", "hidden": "width", "layers": "depth", "heads": "heads", "intermediate": "inner"},
        **{"positions": "longest", "activation": "function", "pooling": "pooling"},
    }
    defaults: ClassVar[Mapping[str, Any]] = {"activation": "relu", "epsilon": 1e-5}

    def refused(self, config: Mapping[str, Any]) -> list[str]:
        return ["upside_down is set"] if config.get("upside_down") else []

    def read_body(self, tensors: Tensors, config: EncoderConfig) -> Body:
        words = tensors.tensor("words.weight", config.vocabulary, HIDDEN)
        layers = []
        for i in tensors.numbers("layers.", config.layers):
            q, k, v, o = (tensors.linear(f"layer.{i}.{name}", f"layers.{i}.{name}", HIDDEN, HIDDEN) for name in "qkvo")
            up, gate = (
                tensors.linear(f"layer.{i}.{name}", f"layers.{i}.{name}", HIDDEN, INNER) for name in ("up", "gate")
            )
            down = tensors.linear(f"layer.{i}.down", f"layers.{i}.down", INNER, HIDDEN)
            first, second = (tensors.norm(f"layer.{i}.{name}", f"layers.{i}.{name}", HIDDEN) for name in ("n1", "n2"))
            attention = TurnedAttention(f"layer.{i}.attention", q, k, v, o, Window(WINDOWS[i % 2]))
            layers.append(PreNormLayer(attention, first, Gated(up, down, gate=gate), second))
        return Body(Embeddings(words, None, None, tensors.norm("embeddings.norm", "norm", HIDDEN)), tuple(layers))

    def read_head(self, tensors: Tensors, config: EncoderConfig, *, bare_projection: bool) -> Head:
        assert isinstance(config, MadeUpConfig)
        return PooledHead(
            tensors.linear("dense", "dense", HIDDEN, HIDDEN),
            "relu",
            tensors.linear("classifier", "classifier", HIDDEN, config.labels),
            norm=tensors.norm("final", "final", HIDDEN),
            pooling=config.pooling,
        )


class MadeUpPass(Bert):
    name = "made"
    fields = ("depth", "heads", "function")

    def __init__(self, config: dict[str, Any], folder: Path, *, bare_projection: bool) -> None:
        super().__init__(config, folder, bare_projection=bare_projection)
        self.pooling, self.epsilon = config["pooling"], np.float32(1e-5)

    def logits(self, ids: NDArray[np.int64], types: NDArray[np.int64], mask: NDArray[np.int64]) -> Floats:
        x = self.norm(self.tensor("words.weight")[ids], "norm")
        for i in range(self.depth):
            at = f"layers.{i}."
            x = x + self.linear(self.turned(self.norm(x, f"{at}n1"), mask, at, WINDOWS[i % 2]), f"{at}o")
            y = self.norm(x, f"{at}n2")
            x = x + self.linear(activate("relu", self.linear(y, f"{at}up")) * self.linear(y, f"{at}gate"), f"{at}down")
        x = self.norm(x, "final")
        valid = mask[..., None].astype(np.float32)
        row = x[:, 0] if self.pooling == "cls" else (x * valid).sum(1) / valid.sum(1)
        return self.linear(activate("relu", self.linear(row, "dense")), "classifier")

    def turned(self, x: Floats, mask: NDArray[np.int64], at: str, reach: int) -> Floats:
        batch, length, _ = x.shape
        q, k, v = (
            self.linear(x, f"{at}{name}").reshape(batch, length, HEADS, HEAD_SIZE).transpose(0, 2, 1, 3)
            for name in "qkv"
        )
        positions = np.arange(length)
        turns = np.exp(1j * positions[:, None] * 100.0 ** (-np.arange(HEAD_SIZE // 2) / (HEAD_SIZE // 2)))

        def turn(y: Floats) -> Any:
            a, b = np.split(y, 2, axis=-1)
            return (a + 1j * b) * turns

        scores = (turn(q) @ turn(k).conj().transpose(0, 1, 3, 2)).real / np.sqrt(HEAD_SIZE) + k.mean(-1)[:, :, None]
        seen = (np.abs(positions[:, None] - positions) <= reach) & (mask[:, None, None] == 1)
        scores = np.where(seen, scores, -1e30)  # finite, since padding far from all tokens sees none
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        context = (shares / shares.sum(-1, keepdims=True)) @ v
        merged: Floats = context.transpose(0, 2, 1, 3).reshape(x.shape).astype(np.float32)
        return merged


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The family and its pass; transformers, which never heard of them, counts as absent."""
    monkeypatch.setitem(architectures(), "made-up", MadeUp())
    monkeypatch.setitem(passes(), "made-up", MadeUpPass)
    monkeypatch.setattr(reference, "util", SimpleNamespace(find_spec=lambda name: None))


def make_made_up(folder: Path, pooling: str, **settings: Any) -> Path:
    """A checkpoint whose logits spread by `SPREAD`, all of its parameters drawn."""
    words = write_tokenizer(folder, "bert").get_vocab_size()
    sizes = {"words": words, "width": HIDDEN, "depth": LAYERS, "heads": HEADS, "inner": INNER, "longest": 48}
    write_json(
        folder / "config.json", {"model_type": "made-up", "num_labels": 2, "pooling": pooling} | sizes | settings
    )
    rng = np.random.default_rng(1)
    shapes: dict[str, tuple[int, ...]] = {"made.words.weight": (words, HIDDEN)}
    for i in range(LAYERS):
        linears = {**dict.fromkeys("qkvo", (HIDDEN, HIDDEN)), **dict.fromkeys(("up", "gate"), (INNER, HIDDEN))}
        for name, (outputs, inputs) in (linears | {"down": (HIDDEN, INNER)}).items():
            shapes |= {f"made.layers.{i}.{name}.weight": (outputs, inputs), f"made.layers.{i}.{name}.bias": (outputs,)}
    for name, outputs in (("made.dense", HIDDEN), ("classifier", 2)):
        shapes |= {f"{name}.weight": (outputs, HIDDEN), f"{name}.bias": (outputs,)}
    tensors = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    for name in ("norm", "final", *(f"layers.{i}.{norm}" for i in range(LAYERS) for norm in ("n1", "n2"))):
        tensors[f"made.{name}.weight"] = rng.uniform(0.5, 1.5, HIDDEN).astype(np.float32)
        tensors[f"made.{name}.bias"] = rng.normal(0, 0.2, HIDDEN).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    tensors["classifier.weight"] *= (SPREAD / logits_of(folder).std(axis=0))[:, None]
    save_file(tensors, folder / "model.safetensors")
    return folder


def logits_of(folder: Path) -> Floats:
    """By the forward pass in numpy."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return reference.numpy_logits(folder, config, folder / "tokenizer.json", PAIRS, max_length=48, token_types=False)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_family_of_one_file_is_exported_proven_and_scored(tmp_path: Path, pooling: str) -> None:
    checkpoint = make_made_up(tmp_path / "checkpoint", pooling)
    artifact = export_model(checkpoint, tmp_path / "artifact")
    manifest = read_manifest(artifact)
    assert [variant.name for variant in manifest.variants] == ["cpu fp32", "cpu int8", "cuda fp16", "portable fp32"]
    assert manifest.source.architecture == "made-up"
    model = CrossEncoder(artifact, precision="fp32")
    scores = model.predict(list(PAIRS), activation_fn="identity", apply_softmax=False)
    assert np.abs(scores - logits_of(checkpoint)).max() <= TOLERANCE
    verify_artifact(artifact)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("part", "method", "other"),
    [
        (TurnedAttention, "turn", lambda self, layout, projected: projected),
        (Window, "by_distance", lambda self, distances: np.zeros((*distances.shape, 1), np.float32)),
        (PreNormLayer, "write", Layer.write),
    ],
)
def test_a_family_whose_graph_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: Any, method: str, other: Any
) -> None:
    checkpoint = make_made_up(tmp_path / "checkpoint", "cls")
    monkeypatch.setattr(part, method, other)
    with pytest.raises(ProofError, match="against numpy"):
        export_model(checkpoint, tmp_path / "artifact", variants=["cpu", "portable"], precisions=["fp32"])


@pytest.mark.usefixtures("known")
def test_a_family_refuses_settings_by_name(tmp_path: Path) -> None:
    checkpoint = make_made_up(tmp_path / "checkpoint", "cls", upside_down=True)
    with pytest.raises(UnsupportedModelError, match="upside_down is set"):
        export_model(checkpoint, tmp_path / "artifact")


def test_each_architecture_has_its_forward_pass_and_its_tiny_model() -> None:
    """Another name of one of them is tested in test_renamed.py."""
    assert set(architectures()) == set(passes()) == {*ARCHITECTURES, *RENAMED}


@pytest.mark.parametrize("family", ["mpnet", "distilbert"])
def test_a_family_is_named_by_its_file_and_its_pass_alone(family: str) -> None:
    """And, for what transformers does with its tokenizer and positions, by the engine's table."""
    modules = [path for folder in ("export", "engine") for path in (ROOT / folder).rglob("*.py")]
    naming = {path.relative_to(ROOT).as_posix() for path in modules if family in path.read_text("utf-8").lower()}
    table = "engine/_artifact/tokenizer_class.py"
    assert naming == {f"export/_architectures/{family}.py", f"export/_prove/passes/{family}.py", table}

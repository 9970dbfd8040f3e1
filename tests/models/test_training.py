"""The embedded model's training program: the encoder, the texts, the pairs, the vocabulary and the whole recipe."""

import gzip
import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.support.references import reference
from tests.support.tiny_models import PAIRS, make_checkpoint, transformers_logits

torch = reference("torch")
torch_files = reference("safetensors.torch")

PROGRAM = Path(__file__).parents[2] / "models" / "crossrank-mini-en" / "training"


@pytest.fixture(scope="module")
def program() -> SimpleNamespace:
    """The program's modules, which import each other as scripts beside each other do."""
    pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PROGRAM)
        names = ("encoder", "pairs", "texts", "train", "vocabulary")
        return SimpleNamespace(**{name: import_module(name) for name in names})


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("teacher"), "bert", num_hidden_layers=4)


def make_encoder(program: SimpleNamespace, folder: Path, layers: Any) -> Any:
    config = json.loads((folder / "config.json").read_text())
    return program.encoder.Encoder(
        torch_files.load_file(folder / "model.safetensors"), layers, config["num_attention_heads"]
    )


def tokenized(folder: Path, pairs: Any) -> Any:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    return tokenizer.encode_batch(list(pairs))


def test_the_encoder_scores_as_transformers_does(program: SimpleNamespace, teacher: Path) -> None:
    pairs = [pair for pair in PAIRS[:12] if len(tokenized(teacher, [pair])[0].ids) <= 48]
    expected = torch.from_numpy(transformers_logits(teacher, pairs))[:, 0]
    model = make_encoder(program, teacher, range(4))
    with torch.no_grad():
        found = torch.cat(
            [model(torch.tensor([e.ids]), torch.tensor([e.type_ids])).logits for e in tokenized(teacher, pairs)]
        )
    # bfloat16 products: 8 bits of mantissa through four layers; a wrong part moves logits by their own spread.
    assert expected.std() > 1
    assert (found - expected).abs().mean() < 0.05 * expected.std()


def test_weights_are_written_under_the_names_they_were_read_by(program: SimpleNamespace, teacher: Path) -> None:
    weights = torch_files.load_file(teacher / "model.safetensors")
    found = make_encoder(program, teacher, range(4)).weights()
    assert {name for name in weights if "position_ids" not in name} == found.keys()
    assert all(torch.equal(found[name], weights[name]) for name in found)


def test_the_student_starts_from_the_layers_named(program: SimpleNamespace, teacher: Path) -> None:
    weights = torch_files.load_file(teacher / "model.safetensors")
    found = make_encoder(program, teacher, [0, 3]).weights()
    for ours, theirs in enumerate((0, 3)):
        for name in ("attention.self.key.weight", "output.dense.bias"):
            layer = "bert.encoder.layer"
            assert torch.equal(found[f"{layer}.{ours}.{name}"], weights[f"{layer}.{theirs}.{name}"])
    assert not any("layer.2." in name for name in found)


def test_a_pruned_vocabulary_gives_the_same_tokens_where_all_are_kept(
    program: SimpleNamespace, teacher: Path, tmp_path: Path
) -> None:
    whole = Tokenizer.from_file(str(teacher / "tokenizer.json"))
    texts = [text for pair in PAIRS[:8] for text in pair]
    counts = program.vocabulary.count_tokens(whole, texts)
    special = len(whole.get_added_tokens_decoder())
    letters = [token for token in whole.get_vocab() if program.vocabulary.spells(token)]
    size = special + len({*letters, *(whole.id_to_token(i) for i in counts)})
    kept = program.vocabulary.choose_tokens(whole, counts, size)
    assert kept == sorted(kept)
    assert len(kept) == size < whole.get_vocab_size()
    program.vocabulary.prune_tokenizer(teacher / "tokenizer.json", tmp_path / "tokenizer.json", kept)
    pruned = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for query, document in PAIRS[:8]:
        before, after = (tokenizer.encode(query, document) for tokenizer in (whole, pruned))
        assert before.tokens == after.tokens
        assert before.ids == [kept[i] for i in after.ids]
        assert before.type_ids == after.type_ids


@pytest.mark.parametrize("token", ["a", "##z", "7", "?", "ß", "##β", "Ω", "µ", "≈", "##•"])
def test_what_english_text_is_spelled_with_is_always_kept(program: SimpleNamespace, token: str) -> None:
    assert program.vocabulary.spells(token)
    assert not any(program.vocabulary.spells(other) for other in ("at", "##at", "я", "東", "", "##"))


def test_a_word_that_was_pruned_is_spelled_by_its_pieces(
    program: SimpleNamespace, teacher: Path, tmp_path: Path
) -> None:
    whole = Tokenizer.from_file(str(teacher / "tokenizer.json"))
    counts = program.vocabulary.count_tokens(whole, ["ships"])
    kept = [i for i in program.vocabulary.choose_tokens(whole, counts, 200) if whole.id_to_token(i) != "ships"]
    program.vocabulary.prune_tokenizer(teacher / "tokenizer.json", tmp_path / "tokenizer.json", kept)
    tokens = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("ships", add_special_tokens=False).tokens
    assert "[UNK]" not in tokens
    assert len(tokens) > 1
    assert "".join(token.removeprefix("##") for token in tokens) == "ships"


SUBJECTS = ("harbour", "lighthouse", "kettle", "violin", "bridge", "museum", "goldfish", "tomato", "yeast", "knife")


def write_texts(folder: Path) -> Path:
    """A folder in the form of the real one, with made-up texts."""
    passages = [f"The {a} stands near the {b} since {1900 + i} and is known for its size."
                for i, (a, b) in enumerate((a, b) for a in SUBJECTS for b in SUBJECTS if a != b)]  # fmt: skip
    for number, retriever in enumerate(("BM25", "BM25_RM3", "SPLADE")):
        for year in ("dl21", "dl22"):
            entries = [
                {"query": f"where is the {a} {year}", "hits": [{"content": text} for text in passages[number + i :: 9]]}
                for i, a in enumerate(SUBJECTS)
            ]
            (folder / f"{retriever}.{year}.json").write_text(json.dumps(entries))
    squad = [{"title": a, "text": f"A {a} was built by  hand.", "questions": [f"who built the {a}?"]} for a in SUBJECTS]
    (folder / "squad_v1.1_dev_paras.json").write_text(json.dumps(squad))
    header = "QuestionID\tQuestion\tDocumentID\tDocumentTitle\tSentenceID\tSentence\tLabel"
    rows = [
        f"Q{i}\thow old is a {a}\tD{i}\t{a}\tD{i}-{j}\tSentence {j} about a {a} has a good many words in it .\t0"
        for i, a in enumerate(SUBJECTS)
        for j in range(9)
    ]
    with gzip.open(folder / "WikiQA-train.tsv.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join([header, *rows]) + "\n")
    topics = "\n".join(f"{i}\tcost of a {a} in {b}" for i, a in enumerate(SUBJECTS) for b in SUBJECTS[:6])
    (folder / "topics.msmarco-passage.dev-subset.txt").write_text(topics + "\n")
    return folder


@pytest.fixture(scope="module")
def texts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts"))


def test_texts_are_read_once_each_with_what_their_source_says(program: SimpleNamespace, texts_folder: Path) -> None:
    passages, queries = program.texts.read_texts(texts_folder)
    assert len(passages) == len(set(passages))
    by_text = {query.text: query for query in queries}
    squad = by_text["who built the kettle?"]
    assert (squad.source, [passages[i] for i in squad.passages]) == ("squad", ["A kettle was built by hand."])
    wikiqa = by_text["how old is a kettle"]
    assert len(wikiqa.passages) == 3  # nine sentences of 13 words: four make more than 50
    assert all("about a kettle" in passages[i] for i in wikiqa.passages)
    assert by_text["cost of a kettle in kettle"].passages == ()
    ranked = by_text["where is the harbour dl21"]
    assert len(ranked.passages) == len(set(ranked.passages)) > 3  # of three retrievers


def test_a_folder_that_lacks_texts_is_refused_with_their_names(program: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"BM25\.dl21\.json.*WikiQA-train\.tsv\.gz"):
        program.texts.read_texts(tmp_path)


def test_queries_kept_apart_are_in_no_pair_and_every_run_chooses_the_same(
    program: SimpleNamespace, texts_folder: Path
) -> None:
    passages, queries = program.texts.read_texts(texts_folder)
    chosen, held_out = program.pairs.choose_pairs(passages, queries, 1)
    assert program.pairs.choose_pairs(passages, queries, 1) == (chosen, held_out)
    assert len(chosen) == len(set(chosen)) > len(queries)
    assert held_out
    assert not {entry.query.text for entry in held_out} & {query for query, _ in chosen}
    assert all(len(entry.candidates) == len(set(entry.candidates)) > 1 for entry in held_out)


def test_pairs_and_states_of_another_training_are_refused(
    program: SimpleNamespace, texts_folder: Path, teacher: Path, tmp_path: Path
) -> None:
    passages, queries = program.texts.read_texts(texts_folder)
    recipe = replace(program.train.Recipe(), pairs=10)
    first, _ = program.train.kept_pairs(passages, queries, recipe, tmp_path / "pairs.json")
    assert len(first) == 10
    assert program.train.kept_pairs(passages, queries, recipe, tmp_path / "pairs.json")[0] == first
    with pytest.raises(ValueError, match=r"pairs\.json was made of other texts or with another seed: choose another"):
        program.train.kept_pairs(passages[::-1], queries, recipe, tmp_path / "pairs.json")
    torch.save({"recipe": repr(recipe)}, tmp_path / "state.pt")
    students = (make_encoder(program, teacher, range(4)), make_encoder(program, teacher, [0, 3]))
    with pytest.raises(ValueError, match="is the state of another recipe"):
        program.train.distil(*students, [], replace(recipe, seed=2), tmp_path / "state.pt")


def test_a_query_that_repeats_one_kept_apart_is_not_learned(program: SimpleNamespace, texts_folder: Path) -> None:
    passages, queries = program.texts.read_texts(texts_folder)
    _, held_out = program.pairs.choose_pairs(passages, queries, 1)
    again = [replace(entry.query, source="squad", text=entry.query.text.upper() + "?") for entry in held_out]
    again = [replace(query, passages=query.passages[:1]) for query in again]
    chosen, _ = program.pairs.choose_pairs(passages, [*queries, *again], 1)
    assert not {query.text for query in again} & {query for query, _ in chosen}


def test_the_recipe_ends_in_an_artifact_that_has_learned_from_its_teacher(
    program: SimpleNamespace, texts_folder: Path, teacher: Path, tmp_path: Path
) -> None:
    recipe = replace(
        program.train.Recipe(), layers=(0, 2, 3), targets=((0, 0),), vocabulary=250, pairs=600, max_length=48,
        batch_tokens=256, warm_up=3,
    )  # fmt: skip
    program.train.train(teacher, texts_folder, tmp_path, recipe)
    report = json.loads((tmp_path / "training.json").read_text())
    assert report["recipe"]["vocabulary"] == 250
    assert report["kendall_tau_to_teacher"]["all"] > 0.2  # 0 is chance
    student = tmp_path / "checkpoint" / program.train.NAME
    assert json.loads((student / "config.json").read_text())["num_hidden_layers"] == 3
    transformers_logits(student, PAIRS[:2])  # a checkpoint that transformers loads
    assert (tmp_path / program.train.NAME / "crossrank.json").exists()
    for entry in json.loads((tmp_path / "held-out-trec.json").read_text()):
        assert entry["query"].startswith("where is the")
        assert [hit["rank"] for hit in entry["hits"]] == list(range(1, len(entry["hits"]) + 1))


def test_an_interrupted_training_goes_on_to_the_same_weights(
    program: SimpleNamespace, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(program.train.Recipe(), targets=((0, 1),), max_length=48, warm_up=2)
    tokenizer = Tokenizer.from_file(str(teacher / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(48)
    batches = program.train.make_batches(tokenizer, [(PAIRS[i][0], i) for i in (0, 1, 2, 3)], [b for _, b in PAIRS], 64)

    def run(state: Path, stop: int | None) -> dict[str, Any]:
        whole, student = make_encoder(program, teacher, range(4)), make_encoder(program, teacher, [0, 3])
        steps = list(batches)
        if stop is not None:  # as a process that is killed there: it fails in the middle of a step
            steps[stop] = replace(steps[stop], ids=steps[stop].ids * 0 + 10**6)
            with pytest.raises(IndexError):
                program.train.distil(whole, student, steps, recipe, state)
        else:
            program.train.distil(whole, student, steps, recipe, state)
        return dict(student.weights())

    monkeypatch.setattr(program.train, "_SAVE_EVERY_S", -1)
    through = run(tmp_path / "through.pt", None)
    run(tmp_path / "state.pt", len(batches) - 2)
    resumed = run(tmp_path / "state.pt", None)
    # Sums over threads may fall in another order.
    assert all(torch.allclose(through[name], resumed[name], atol=1e-4) for name in through)

"""Where texts are what takes the time, the quicker of two ways to tokenize them is taken; the ids are the same."""

import numpy as np
import pytest

from crossrank import InputError
from crossrank._artifact.origin import EMBEDDED_MODEL
from crossrank._text.race import Race
from crossrank._text.sample_texts import sample_texts
from crossrank._text.tokenizer import PairTokenizer
from tests.support.texts import SENTENCES

TOKENIZER = EMBEDDED_MODEL / "tokenizer.json"
QUICK_S, SLOW_S = 1e-3, 4e-3


def run(race: Race, turns: int, *, memory_s: float, rust_s: float) -> list[bool]:
    """Turns of 10,000 characters, and whose each was: True for the Rust tokenizer's."""
    taken = []
    for _ in range(turns):
        rust = race.rust_is_next()
        race.learn(10_000, rust_s if rust else memory_s, rust=rust)
        taken.append(rust)
    return taken


def test_both_are_tried_and_then_the_quicker_one_has_nearly_all_turns() -> None:
    assert run(Race(), 3000, memory_s=QUICK_S, rust_s=SLOW_S)[:3] == [False, True, False]
    assert sum(run(Race(), 3000, memory_s=QUICK_S, rust_s=SLOW_S)) == 3
    assert 150 < 3000 - sum(run(Race(), 3000, memory_s=SLOW_S, rust_s=QUICK_S)) < 200  # and one of these is short


@pytest.mark.parametrize("memory_first", [True, False])
def test_the_other_one_takes_over_when_it_has_become_the_quicker_one(memory_first: bool) -> None:
    race, times = Race(), {"memory_s": QUICK_S, "rust_s": SLOW_S}
    other = {"memory_s": SLOW_S, "rust_s": QUICK_S}
    run(race, 2000, **(times if memory_first else other))
    after = run(race, 20_000, **(other if memory_first else times))
    assert after[-20:].count(memory_first) >= 19


def test_one_turn_that_was_interrupted_changes_nothing() -> None:
    race = Race()
    run(race, 100, memory_s=QUICK_S, rust_s=SLOW_S)
    race.learn(10_000, 10.0, rust=False)
    assert not any(run(race, 500, memory_s=QUICK_S, rust_s=SLOW_S))


def test_turns_over_next_to_no_text_are_no_measurement() -> None:
    race = Race()
    for rust in (False, True):
        for characters in (0, 64):  # of empty texts, and of a letter each
            race.learn(characters, QUICK_S, rust=rust)
    assert (race.memory_s, race.rust_s) == (0, 0)
    assert run(race, 3, memory_s=QUICK_S, rust_s=SLOW_S) == [False, True, False]
    for _ in range(10):
        race.learn(0, 1.0, rust=False)
    assert not any(run(race, 500, memory_s=QUICK_S, rust_s=SLOW_S))


def test_first_texts_that_are_empty_teach_nothing() -> None:
    tokenizer = PairTokenizer(TOKENIZER)
    tokenizer.hurry()
    tokenizer.encode([""] * 300, "document")
    assert tokenizer._race is not None
    assert (tokenizer._race.memory_s, tokenizer._race.rust_s) == (0, 0)


@pytest.mark.parametrize("rust", [False, True])
def test_ids_are_the_same_whoever_wins(rust: bool) -> None:
    texts = [
        *sample_texts(300, kind="document", seed=0),
        *sum(SENTENCES.values(), ()),
        "",
        "word " * 3000,
        "[SEP] a\ud7ffb",
    ]
    plain, hurried = PairTokenizer(TOKENIZER), PairTokenizer(TOKENIZER)
    hurried.hurry()
    assert hurried._race is not None
    hurried._race.memory_s, hurried._race.rust_s = (1.0, 1e-9) if rust else (1e-12, 1.0)
    expected, found = plain.encode(texts, "document"), hurried.encode(texts, "document", pause=lambda: None)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.offsets, expected.offsets)


def test_few_texts_have_no_say_and_many_do() -> None:
    tokenizer = PairTokenizer(TOKENIZER)
    tokenizer.hurry()
    race = tokenizer._race
    assert race is not None
    tokenizer.encode(["a query"], "query")
    assert (race.memory_s, race.rust_s) == (0, 0)
    tokenizer.encode(sample_texts(200, kind="document", seed=0), "document")
    assert min(race.memory_s, race.rust_s) > 0


def test_a_text_that_is_refused_is_named_whoever_has_the_turn() -> None:
    tokenizer = PairTokenizer(TOKENIZER)
    tokenizer.hurry()
    texts = ["a few words"] * 600
    for bad in (3, 170, 599):
        with pytest.raises(InputError, match=f"document {1000 + bad} holds a lone surrogate"):
            tokenizer.encode([*texts[:bad], "a\ud800b", *texts[bad + 1 :]], "document", first=1000)


def test_in_a_hurry_more_words_are_remembered() -> None:
    tokenizer = PairTokenizer(TOKENIZER)
    tokenizer.encode(["word"], "document")
    tokenizer.hurry()
    assert tokenizer._memory is not None
    for start in range(0, 40_000, 1000):
        tokenizer.encode([" ".join(map(str, range(start, start + 1000)))], "document")
    assert len(tokenizer._memory._young) > 40_000

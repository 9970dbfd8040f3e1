"""Memory of the run loop does not grow with the number of documents, nor with the length of one.

Peaks are read in a process of its own (`resource.getrusage`), after a first call has loaded and sized all that stays.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.artifacts import make_artifact

CHILD = """
import random, resource, sys
import numpy as np
from crossrank import CrossEncoder

model = CrossEncoder(sys.argv[1], device="cpu")
rng = random.Random(0)
words = "the lighthouse keeper counts ships at dusk and writes their names into a blue book".split()
many = [" ".join(rng.choices(words, k=100)) for _ in range(20_000)]
long = "the lighthouse keeper counts ships at dusk " * 250_000
model.score("ships at dusk", many[:5_000])


def growth(documents):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scores = model.score("ships at dusk", documents)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, scores


print(growth(many)[0])
grown, scores = growth([long, long[:20_000]])
assert scores[0] == scores[1], scores
print(grown)
assert [len(growth(many[:count])[1]) for count in (0, 1)] == [0, 1]
"""

# Calls of documents that are not kept, of words that fill the tokenizer's memory; RSS after the first and the last.
CALLS = """
import os, random, sys
from pathlib import Path
from crossrank import CrossEncoder

model = CrossEncoder(sys.argv[1], device="cpu", threads=2)
rng = random.Random(0)
letters = "abcdefghijklmnopqrstuvwxyz"
words = ["".join(rng.choices(letters, k=rng.randint(2, 12))) for _ in range(100_000)]
for call in range(int(sys.argv[2])):
    model.score("ships at dusk", [" ".join(rng.choices(words, k=rng.randint(0, 30))) for _ in range(2_000)])
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    if call == 0:
        first = pages
print(first * os.sysconf("SC_PAGE_SIZE"), pages * os.sysconf("SC_PAGE_SIZE"))
"""


@pytest.fixture(scope="module")
def growths_mb(tmp_path_factory: pytest.TempPathFactory) -> tuple[float, float]:
    artifact: Path = make_artifact(tmp_path_factory.mktemp("scoring"), "bert")
    child = subprocess.run([sys.executable, "-c", CHILD, str(artifact)], capture_output=True, text=True, check=True)
    many, long = map(float, child.stdout.split())
    return many, long


def test_memory_does_not_grow_with_the_number_of_documents(growths_mb: tuple[float, float]) -> None:
    # Seen: 14 MB, and no more with 100,000 documents. What the tokenizer makes of them before only ids stay is 220.
    assert growths_mb[0] < 30


def test_a_document_of_ten_megabytes_takes_little_more_than_its_text(growths_mb: tuple[float, float]) -> None:
    # Seen: up to 11 MB, the text in UTF-8. Tokenized whole it takes 1,200.
    assert growths_mb[1] < 60


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc/self/statm on this system")
@pytest.mark.parametrize("calls", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_memory_is_the_same_after_a_hundred_times_as_many_documents(tmp_path: Path, calls: int) -> None:
    """RSS of the process within a tenth of what it was after 2,000 documents."""
    artifact = make_artifact(tmp_path, "bert", max_length=200)
    child = subprocess.run(
        [sys.executable, "-c", CALLS, str(artifact), str(calls)], capture_output=True, text=True, check=True
    )
    first, last = map(int, child.stdout.split())
    print(f"{first / 1e6:.0f} MB after 2,000 documents, {last / 1e6:.0f} MB after {2000 * calls:,}")
    assert last <= 1.1 * first

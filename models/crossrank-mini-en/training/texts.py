"""The texts to distil on: passages and queries of the folder that ``--texts`` names.

Read are rankings of the TREC Deep Learning tracks 2021 and 2022 (queries with the passages that three retrievers
found; no judgments), the paragraphs and questions of SQuAD 1.1's development set, WikiQA's questions with the sentences
of their articles, and the queries of MS MARCO's development subset, which come without passages.
"""

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_RANKINGS = tuple(
    f"{retriever}.{year}.json" for retriever in ("BM25", "BM25_RM3", "SPLADE") for year in ("dl21", "dl22")
)
_SQUAD = "squad_v1.1_dev_paras.json"
_WIKIQA = "WikiQA-train.tsv.gz"
_MARCO = "topics.msmarco-passage.dev-subset.txt"
_WIKIQA_WORDS = 50  # sentences are joined to passages of about as many words as MS MARCO's


@dataclass(frozen=True, slots=True)
class Query:
    """A query and what is known to be near it.

    Attributes:
        source: "trec", "squad", "wikiqa", "marco" or "made up".
        text: The query.
        passages: Indexes of the passages that its source lists for it; may be empty.
    """

    source: str
    text: str
    passages: tuple[int, ...]


class Passages:
    """Different passages in the order in which they were first met."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._places: dict[str, int] = {}

    def add(self, text: str) -> int:
        """The index of a passage, white space normalized; a new one is added."""
        text = " ".join(text.split())
        place = self._places.setdefault(text, len(self.texts))
        if place == len(self.texts):
            self.texts.append(text)
        return place


def read_texts(folder: Path) -> tuple[list[str], list[Query]]:
    """All passages, and all queries with the passages listed for them.

    Raises:
        FileNotFoundError: If one of the files is missing.
    """
    missing = [name for name in (*_RANKINGS, _SQUAD, _WIKIQA, _MARCO) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder}: the texts to train on lack {', '.join(missing)}")
    passages = Passages()
    readers = (_read_rankings, _read_squad, _read_wikiqa, _read_marco)
    queries = [query for read in readers for query in read(folder, passages)]
    return passages.texts, queries


def _read_rankings(folder: Path, passages: Passages) -> Iterator[Query]:
    found: dict[str, dict[int, None]] = {}
    for name in _RANKINGS:
        for entry in json.loads((folder / name).read_text(encoding="utf-8")):
            places = found.setdefault(entry["query"], {})
            places.update(dict.fromkeys(passages.add(hit["content"]) for hit in entry["hits"]))
    for text, places in found.items():
        yield Query("trec", text, tuple(places))


def _read_squad(folder: Path, passages: Passages) -> Iterator[Query]:
    for entry in json.loads((folder / _SQUAD).read_text(encoding="utf-8")):
        place = passages.add(entry["text"])
        for question in entry["questions"]:
            yield Query("squad", question, (place,))


def _read_wikiqa(folder: Path, passages: Passages) -> Iterator[Query]:
    questions: dict[str, str] = {}
    articles: dict[str, dict[str, None]] = {}
    with gzip.open(folder / _WIKIQA, "rt", encoding="utf-8") as lines:
        next(lines)  # QuestionID Question DocumentID DocumentTitle SentenceID Sentence Label
        for line in lines:
            _, question, article, _, _, sentence, _ = line.rstrip("\n").split("\t")
            questions.setdefault(question, article)
            articles.setdefault(article, {})[sentence] = None
    places = {name: tuple(map(passages.add, _paragraphs(sentences))) for name, sentences in articles.items()}
    for question, article in questions.items():
        yield Query("wikiqa", question, places[article])


def _paragraphs(sentences: Iterable[str]) -> Iterator[str]:
    part: list[str] = []
    for sentence in sentences:
        part.append(sentence)
        if sum(len(text.split()) for text in part) >= _WIKIQA_WORDS:
            yield " ".join(part)
            part = []
    if part:
        yield " ".join(part)


def _read_marco(folder: Path, passages: Passages) -> Iterator[Query]:
    for line in (folder / _MARCO).read_text(encoding="utf-8").splitlines():
        yield Query("marco", line.split("\t")[1].strip(), ())

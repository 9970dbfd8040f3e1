"""The run loop: texts to logits, in the order given."""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from ._errors import InputError
from ._pairs import PairSource, Tokens, enough_document_tokens
from ._progress import Progress
from ._runner import Runner, Wait
from ._tokenize import PairTokenizer

# Pairs planned together: enough to sort well, few enough that their arrays stay small.
_WINDOW = 4096


def check_max_length(max_length: int, tokenizer: PairTokenizer) -> int:
    """``max_length`` itself, if a pair's special tokens leave room in it.

    Raises:
        InputError: If they do not.
    """
    least = tokenizer.template.special_count + 1
    if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < least:
        raise InputError(f"max_length={max_length!r}: an integer of at least {least}, special tokens and one more")
    return max_length


@dataclass(frozen=True, slots=True)
class Scorer:
    """A tokenizer and a graph that belong together.

    Attributes:
        tokenizer: The model's tokenizer.
        runner: The model's graph.
        max_length: Most tokens of a joined pair.
        labels: Logits per pair.
    """

    tokenizer: PairTokenizer
    runner: Runner
    max_length: int
    labels: int

    def logits(
        self,
        queries: Sequence[str],
        documents: Sequence[str] | Tokens,
        query_index: NDArray[np.intp],
        *,
        max_pairs: int | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Logits of pairs.

        Args:
            queries: The distinct queries, each tokenized once.
            documents: One document per pair: texts, or their tokens in full.
            query_index: int [pairs], the query of each pair.
            max_pairs: Most pairs of a batch, or None.
            progress: Told how many pairs are done.

        Returns:
            float32 [pairs, labels], in the order of ``documents``.
        """
        tokenizer, template = self.tokenizer, self.tokenizer.template
        pairs_in_all = len(query_index)
        logits = np.empty((pairs_in_all, self.labels), np.float32)
        query_tokens = tokenizer.encode(queries, "query")
        lock = Lock()  # lanes report their progress one at a time
        wait: Wait | None = None
        enough = enough_document_tokens(query_tokens.lengths, self.max_length - template.special_count)
        for start in range(0, pairs_in_all, _WINDOW):
            stop = min(start + _WINDOW, pairs_in_all)
            if isinstance(documents, Tokens):
                document_tokens = documents.part(start, stop)
            else:
                document_tokens = tokenizer.encode(documents[start:stop], "document", first=start, enough=enough)
            pairs = PairSource(template, query_tokens, document_tokens, query_index[start:stop], self.max_length)
            into = logits[start:stop]

            def take(index: NDArray[np.intp], rows: NDArray[np.float32], into: NDArray[np.float32] = into) -> None:
                into[index] = rows
                if progress is not None:
                    with lock:
                        progress.advance(len(index))

            # On a GPU the next documents are tokenized while it computes these.
            following = self.runner.submit(pairs, max_pairs, take)
            if wait is not None:
                wait()
            wait = following
        if wait is not None:
            wait()
        return logits

"""The program of ``make demo``: ranks a few passages for a query with the embedded model or another one, readably.

python examples/demo.py [MODEL]
"""

import argparse
import sys
import textwrap
import time
from collections.abc import Sequence

from crossrank import CrossEncoder, CrossrankError

QUERY = "why do leaves change colour in autumn?"
# Two answers, a partial one, and passages that share words or the subject but answer nothing.
PASSAGES = (
    "Plan the drive for the second week of October, when the autumn leaves along the valley road are at their best.",
    "As days shorten, a tree stops making chlorophyll. Its leaves lose their green, and the yellow and orange pigments "
    "that they held all summer can be seen.",
    "A chameleon changes colour by stretching a layer of tiny crystals in its skin, mostly to signal its mood.",
    "Rake fallen leaves onto a compost heap in thin layers, and keep them damp so that they rot by spring.",
    "The reds of maples are different: their leaves make anthocyanin in autumn, from sugar that is trapped when the "
    "tree seals off the veins of the leaf.",
    "To leave a call without hanging up for everyone, choose 'Leave' instead of 'End' in the menu.",
    "Evergreen needles have a waxy coat and little water in them, so they survive frost and stay green all winter.",
    "Household paint changes colour slightly as it dries; judge the shade the next day, in daylight.",
)
_WARM_UP, _TIMED = 2, 5


def _demo(model_name: str | None) -> None:
    # A checkpoint is exported at its first use, with its stages on a terminal.
    model = CrossEncoder(model_name) if model_name else CrossEncoder()
    for _ in range(_WARM_UP):
        model.score(QUERY, PASSAGES)
    start = time.perf_counter()
    for _ in range(_TIMED):
        ranking = model.rank(QUERY, PASSAGES, return_documents=True)
    seconds = (time.perf_counter() - start) / _TIMED
    info = model.info()
    print(f"model      {info.source} ({info.architecture})")
    print(f"runs on    {info.provider}, {info.threads} threads, {info.variant} {info.precision}")
    speed = f"{len(PASSAGES) / seconds:,.0f} docs/s"
    print(f"time       {len(PASSAGES)} passages in {seconds * 1e3:.1f} ms, {speed}, tokenizing included")
    print(f"\nquery      {QUERY}\n")
    for place, entry in enumerate(ranking, 1):
        lines = textwrap.wrap(entry["text"], 100)
        print(f"{place:>3} {entry['score']:>9.4f}   " + f"\n{'':16}".join(lines))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns 0, 1 for a failure, 2 for wrong usage."""
    parser = argparse.ArgumentParser(description="Rank a few passages for a query.")
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a checkpoint folder, an artifact folder or a hub name (default: the embedded model)",
    )
    try:
        _demo(parser.parse_args(arguments).model)
    except CrossrankError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

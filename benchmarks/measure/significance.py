"""Whether one system is better than another or was lucky with the queries."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

_RESAMPLES = 9_999  # the smallest p value is 1 / 10,000; up to 13 queries all sign flips are tried
_SEED = 0
_BATCH = 500  # flips at a time: thousands of queries must fit into memory
_EQUAL = 1e-9  # what the same ranking may differ by in a measure's last bits


@dataclass(frozen=True, slots=True)
class Comparison:
    """A system beside another on the same queries, in one measure.

    Attributes:
        difference: Of the means, positive where the system is better.
        p_value: How probable a difference as large as this, up or down, is where the systems are equally good.
        better: Queries on which the system is better.
        worse: Queries on which it is worse.
        equal: The other queries.
    """

    difference: float
    p_value: float
    better: int
    worse: int
    equal: int


def compare_queries(values: Sequence[float], others: Sequence[float]) -> Comparison:
    """Compare a measure's values query by query.

    The p value is that of the paired randomization test with a fixed seed, which assumes nothing about how
    differences are spread (Smucker, Allan and Carterette, CIKM 2007): which system a value came from is drawn anew,
    query by query. It is not corrected for how many comparisons are made.

    Args:
        values: The system's, per query.
        others: What it is compared with, in the same order.

    >>> compare_queries([0.5, 1.0, 0.75], [0.25, 0.5, 0.5])  # 2 of 8 ways to flip signs are as far from 0
    Comparison(difference=0.3333333333333333, p_value=0.25, better=3, worse=0, equal=0)
    """
    differences = np.asarray(values, np.float64) - np.asarray(others, np.float64)
    differences[np.abs(differences) < _EQUAL] = 0
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    if better + worse < 2:
        p_value = 1.0  # a single difference is as large with the other sign
    else:
        # Flipping the sign of 0 changes nothing, so only the others are drawn.
        test = stats.permutation_test(
            (differences[differences != 0],),
            lambda flipped, axis: flipped.sum(axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=_RESAMPLES,
            batch=_BATCH,
            rng=_SEED,
        )
        p_value = float(test.pvalue)
    return Comparison(float(differences.mean()), p_value, better, worse, len(differences) - better - worse)

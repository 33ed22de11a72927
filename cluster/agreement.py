"""How well one judge's scores agree with another's verdicts: accuracy, AUC and correlations.

Shapes: N pictures.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Figures of one set of pictures. Example: Agreement(pictures=300, right=0.59, accuracy=0.97, auc=0.99, ...)."""

    pictures: int
    right: float
    """Share that the verifier calls right: whoever always says the commoner answer has this accuracy, or 1 less it."""
    accuracy: float
    """Share of pictures on whose strict verdict a score above or below .5 agrees."""
    auc: float
    """Probability that a right picture scores higher than a wrong one; ties count half."""
    pearson_strict: float
    """Correlation with the strict verdict."""
    pearson_graded: float
    """Correlation with the graded score."""
    spearman_graded: float
    """Correlation of ranks with the graded score; ties share their mean rank."""


def agreement(scores_N: Numbers, strict_N: Numbers, graded_N: Numbers) -> Agreement:
    """Scores in [0, 1] against the verifier's verdicts. Raises ValueError when all verdicts or all scores are the same."""
    for name, values in (("scores", scores_N), ("strict verdicts", strict_N), ("graded scores", graded_N)):
        if np.ptp(values) == 0:
            raise ValueError(f"all {len(values)} {name} are {values[0]}, so no agreement can be measured; judge more pictures")
    right_N = strict_N == 1
    return Agreement(
        pictures=len(scores_N),
        right=float(right_N.mean()),
        accuracy=float(((scores_N > 0.5) == right_N).mean()),
        auc=_auc(scores_N, right_N),
        pearson_strict=_pearson(scores_N, strict_N),
        pearson_graded=_pearson(scores_N, graded_N),
        spearman_graded=_pearson(_ranks(scores_N), _ranks(graded_N)),
    )


def _pearson(one_N: Numbers, other_N: Numbers) -> float:
    return float(np.corrcoef(one_N, other_N)[0, 1])


def _ranks(values_N: Numbers) -> Numbers:
    """Ranks from 1, equal values sharing their mean rank."""
    _, place_N, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    ranks_N: Numbers = (np.cumsum(counts) - (counts - 1) / 2)[place_N]
    return ranks_N


def _auc(scores_N: Numbers, right_N: NDArray[np.bool_]) -> float:
    """Mann and Whitney's U over its greatest value."""
    num_right = int(right_N.sum())
    excess = float(_ranks(scores_N)[right_N].sum()) - num_right * (num_right + 1) / 2
    return excess / (num_right * (len(right_N) - num_right))

"""How sure a mean score is: the percentile bootstrap (Efron, 1979) over prompts.

Pictures of one prompt are alike, so prompts are drawn anew and each brings all of its pictures; a bootstrap over pictures would
claim too narrow an interval. Left out on purpose: bias correction, which matters less than the number of prompts.

Shapes: P prompts, K scores of a picture, B resamples.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_RESAMPLES = 4000
LEVEL = 0.95
"""Share of intervals that hold the true mean, when prompts are many."""


def resampled_means(totals_PK: Floats, counts_P: Floats, *, rng: np.random.Generator, num: int = NUM_RESAMPLES) -> Floats:
    """[B, K] mean scores of `num` resamples: P prompts drawn with replacement, the sum of their totals over their counts.

    totals_PK: each prompt's scores summed over its pictures; counts_P: how many pictures those are, at least 1. Counts of 1 and
    totals that are means give every prompt the same weight, whatever its number of pictures. All K scores of one resample are
    of the same drawn prompts.
    """
    num_prompts = len(counts_P)
    weights_BP = rng.multinomial(num_prompts, np.full(num_prompts, 1.0 / num_prompts), size=num).astype(np.float64)
    means_BK: Floats = (weights_BP @ totals_PK) / (weights_BP @ counts_P)[:, None]
    return means_BK


def mean_of_strata(strata_BK: Sequence[Floats]) -> Floats:
    """[B, K] the plain mean over categories whose prompts were drawn apart, each category counting the same."""
    mean_BK: Floats = np.mean(np.stack(strata_BK), axis=0)
    return mean_BK


def percentile_interval(means_BK: Floats) -> list[tuple[float, float]]:
    """[K] (low, high): the middle LEVEL of the resampled means, between order statistics by linear interpolation."""
    low_K, high_K = np.quantile(means_BK, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [(float(low), float(high)) for low, high in zip(low_K, high_K, strict=True)]

"""Agreement of two judges, by hand."""

import numpy as np
import pytest

from cluster.agreement import agreement


def test_figures_of_five_pictures() -> None:
    scores = np.array([0.9, 0.4, 0.4, 0.1, 0.6])
    strict = np.array([1.0, 1.0, 0.0, 0.0, 0.0])
    graded = np.array([1.0, 1.0, 0.5, 0.25, 0.5])
    figures = agreement(scores, strict, graded)
    assert (figures.pictures, figures.right) == (5, 0.4)
    assert figures.accuracy == 3 / 5
    # Pairs of a right and a wrong picture: .9 beats all three; .4 ties with .4, beats .1, loses to .6.
    assert figures.auc == (3 + 0.5 + 1) / 6
    # Ranks 5, 2.5, 2.5, 1, 4 and 4.5, 4.5, 2.5, 1, 2.5, less their mean 3.
    ours, theirs = np.array([2, -0.5, -0.5, -2, 1]), np.array([1.5, 1.5, -0.5, -2, -0.5])
    assert figures.spearman_graded == pytest.approx((ours @ theirs) / np.sqrt((ours @ ours) * (theirs @ theirs)))
    assert figures.pearson_strict == pytest.approx(np.corrcoef(scores, strict)[0, 1])
    assert figures.pearson_graded == pytest.approx(np.corrcoef(scores, graded)[0, 1])


def test_nothing_to_compare_is_refused() -> None:
    mixed = np.array([0.0, 1.0])
    with pytest.raises(ValueError, match=r"all 2 strict verdicts are 1.0"):
        agreement(mixed, np.ones(2), mixed)
    with pytest.raises(ValueError, match=r"all 2 scores are 0.0"):
        agreement(np.zeros(2), mixed, mixed)

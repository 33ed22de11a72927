"""The bootstrap against a loop over drawn prompts, against cases known by hand, and against simulated data."""

from statistics import fmean

import numpy as np
import pytest

from unigrpo.algo.bootstrap import mean_of_strata, percentile_interval, resampled_means

PICTURES = [[1.0, 0.0], [0.25], [1.0, 1.0, 0.5], [0.0, 0.0], [0.75]]
"""Scores of five prompts' pictures."""
TOTALS = np.array([[sum(scores), -sum(scores)] for scores in PICTURES])
COUNTS = np.array([float(len(scores)) for scores in PICTURES])


def test_resamples_are_means_over_the_pictures_of_drawn_prompts() -> None:
    means = resampled_means(TOTALS, COUNTS, rng=np.random.default_rng(3), num=50)
    draws = np.random.default_rng(3)
    for row in means:
        times = draws.multinomial(5, [0.2] * 5)
        drawn = [score for number, scores in zip(times, PICTURES, strict=True) for _ in range(number) for score in scores]
        assert row == pytest.approx([fmean(drawn), -fmean(drawn)], abs=1e-12)


def test_equal_scores_leave_no_doubt() -> None:
    means = resampled_means(0.3 * COUNTS[:, None], COUNTS, rng=np.random.default_rng(0))
    [interval] = percentile_interval(means)
    assert interval == pytest.approx((0.3, 0.3))


def test_the_interval_is_the_middle_95_percent() -> None:
    means = np.arange(1001.0)[::-1, None] / 1000
    [interval] = percentile_interval(means)
    assert interval == pytest.approx((0.025, 0.975))


def test_strata_count_the_same_whatever_their_size() -> None:
    many = resampled_means(np.full((90, 1), 1.0), np.ones(90), rng=np.random.default_rng(0), num=10)
    few = resampled_means(np.full((3, 1), 0.5), np.ones(3), rng=np.random.default_rng(0), num=10)
    assert mean_of_strata([many, few]) == pytest.approx(np.full((10, 1), 0.75))


def test_about_95_percent_of_intervals_hold_the_truth_though_pictures_of_a_prompt_are_alike() -> None:
    rng = np.random.default_rng(11)
    held = held_if_pictures_were_independent = 0
    for _ in range(200):
        ability = rng.uniform(size=(80, 1))  # of each prompt; its four pictures are right that often
        right = (rng.uniform(size=(80, 4)) < ability).astype(float)
        [(low, high)] = percentile_interval(resampled_means(right.sum(1, keepdims=True), np.full(80, 4.0), rng=rng, num=300))
        held += low <= 0.5 <= high
        [(low, high)] = percentile_interval(resampled_means(right.reshape(-1, 1), np.ones(320), rng=rng, num=300))
        held_if_pictures_were_independent += low <= 0.5 <= high
    assert 0.92 <= held / 200 <= 0.98
    assert held_if_pictures_were_independent / 200 < 0.88

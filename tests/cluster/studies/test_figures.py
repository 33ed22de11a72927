"""Means, intervals and differences of rows, against numbers worked out by hand."""

from pathlib import Path

import pytest

from cluster.studies.figures import (
    Runs,
    baseline_of,
    difference,
    differences,
    mean_of,
    of_first_starts,
    replications,
    row_mean,
    value_of,
    values,
)
from tests.cluster.studies.fakes import fake_result, fake_scores, fake_study

RESULTS = [
    fake_result("sft", "sft", None, 0.5),
    fake_result("unigrpo", "sft", 0, 0.7),
    fake_result("unigrpo", "sft", 1, 0.8),
    fake_result("unigrpo", "base", 0, 0.6),
    fake_result("unigrpo", "base", 1, None),
    fake_result("text_grpo", "sft", 0, 0.65),
    fake_result("text_grpo", "sft", 1, 0.70),
]


def test_scores_of_runs_that_ended_well() -> None:
    assert values(RESULTS, "unigrpo", "think", "strict") == {("sft", 0): 0.7, ("sft", 1): 0.8, ("base", 0): 0.6}
    assert values(RESULTS, "unigrpo", "no_think", "strict") == {("sft", 0): 0.35, ("sft", 1): 0.4, ("base", 0): 0.3}
    assert values(RESULTS, "sft", "think", "plan_correct") == {("sft", None): 0.6}
    assert values(RESULTS, "sft", "no_think", "plan_correct") == {}


def test_a_score_is_found_overall_by_category_and_over_categories() -> None:
    scores = fake_scores(0.7, counting=0.25)
    assert value_of(scores, "category:counting") == 0.25
    assert value_of(scores, "category:position") is None
    assert value_of(scores, "strict") == 0.7
    over_categories = scores | {"headline": {"score": "strict", "over": "categories"}}
    assert value_of(over_categories, "strict") == 0.9


def test_the_mean_of_two_runs_and_its_interval() -> None:
    found = mean_of([0.7, 0.8])  # t(.975, 1) = 12.7062, standard error .0707107 / sqrt 2 = .05
    assert found is not None
    assert (round(found.mean, 9), found.runs) == (0.75, 2)
    assert found.interval == pytest.approx((0.75 - 0.63531, 0.75 + 0.63531), abs=1e-5)
    assert mean_of([]) is None
    alone = mean_of([0.7])
    assert alone is not None
    assert alone.interval is None


def test_an_untrained_row_has_the_interval_over_prompts_of_its_one_run() -> None:
    alone = row_mean(RESULTS, "sft", "think", "strict")
    assert alone is not None
    assert (alone.mean, alone.interval, alone.over) == (0.5, (0, 1), "prompts")
    of_category = row_mean(RESULTS, "sft", "think", "category:counting")
    assert of_category is not None
    assert (of_category.interval, of_category.over) == ((0.25, 0.75), "prompts")
    for name in ("category:colors", "plan_correct"):  # one prompt, and a score that has no interval
        told = row_mean(RESULTS, "sft", "think", name)
        assert told is not None
        assert told.interval is None
    trained = row_mean([fake_result("unigrpo", "sft", 0, 0.7)], "unigrpo", "think", "strict")
    assert trained is not None
    assert trained.interval is None  # over prompts it would say nothing of other seeds
    assert row_mean(RESULTS, "gone", "think", "strict") is None


def test_rows_are_told_of_their_first_start_and_what_began_elsewhere_is_a_replication(tmp_path: Path) -> None:
    study = fake_study(tmp_path)
    assert [(each.row, each.start) for each in of_first_starts(study, RESULTS)] == [
        ("sft", "sft"),
        ("unigrpo", "sft"),
        ("unigrpo", "sft"),
        ("text_grpo", "sft"),
        ("text_grpo", "sft"),
    ]
    again = replications(study, RESULTS)
    assert {start: [each.row for each in found] for start, found in again.items()} == {"base": ["unigrpo", "unigrpo"]}
    assert baseline_of(study) == "sft"


def test_rows_are_compared_run_by_run() -> None:
    found = difference(values(RESULTS, "unigrpo", "think", "strict"), values(RESULTS, "text_grpo", "think", "strict"))
    assert found is not None  # .05 and .10; what began from base has no partner
    assert (round(found.mean, 9), found.runs) == (0.075, 2)


def test_an_untrained_row_is_the_same_for_every_seed_of_its_start_or_for_all_where_it_is_alone() -> None:
    trained: Runs = {("sft", 0): 0.7, ("sft", 1): 0.8, ("base", 0): 0.6}
    of_both = difference(trained, {("sft", None): 0.5, ("base", None): 0.4})
    assert of_both is not None
    assert (round(of_both.mean, 6), of_both.runs) == (0.233333, 3)
    of_another = difference(trained, {("old", None): 0.5})
    assert of_another is not None
    assert (round(of_another.mean, 9), of_another.runs) == (0.2, 3)
    untrained = difference({("old", None): 0.5}, {("sft", None): 0.6})
    assert untrained is not None
    assert (untrained.runs, untrained.interval) == (1, None)
    assert difference({("sft", 0): 0.7}, {("base", 0): 0.6}) is None


def test_the_row_that_the_paper_has_above_stands_first_and_the_interval_decides() -> None:
    scores: dict[str, Runs] = {
        "a": {("sft", 0): 0.50, ("sft", 1): 0.50, ("sft", 2): 0.50},
        "b": {("sft", 0): 0.70, ("sft", 1): 0.71, ("sft", 2): 0.72},
        "c": {("sft", 0): 0.40, ("sft", 1): 0.80, ("sft", 2): 0.60},
        "d": {("sft", 0): 0.30, ("sft", 1): 0.31, ("sft", 2): 0.29},
    }
    found = differences(scores, {"a": 0.8, "b": 0.9, "d": 0.95})
    told = {(each.above, each.below): (each.paper and round(each.paper, 3), each.verdict) for each in found}
    assert told == {
        ("b", "a"): (0.1, "above"),
        ("a", "c"): (None, "undecided"),
        ("d", "a"): (0.15, "below"),
        ("b", "c"): (None, "undecided"),
        ("d", "b"): (0.05, "below"),
        ("c", "d"): (None, "undecided"),
    }

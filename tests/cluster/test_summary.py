"""Means over pictures, prompts and categories worked out by hand, and which score stands for the whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from cluster.summary import ROW, UNTAGGED, Scoring, headline, scoring, summarise
from configs.remote import Remote
from configs.reward import CombinedReward, Reward
from configs.verifiers import ExamReward, GenevalReward, HttpReward, OcrReward, PythonReward, RandomReward
from tests.cluster.fakes import fake_group
from unigrpo.types import Prompt, Score

GROUPS = [
    fake_group(0, "colors", [1.0, 1.0]),
    fake_group(1, "counting", [1.0, 0.0]),
    fake_group(2, "position", [0.0, 0.0]),
    fake_group(3, "counting", [1.0, 1.0]),
]
SHAPES = scoring(GenevalReward(detector="shapes"))
PHOTOGRAPHS = scoring(GenevalReward(detector="mask2former"))


def colors_were_seen(prompt: Prompt) -> bool:
    return prompt.metadata["tag"] == "colors"


def summary(
    groups: Sequence[Any] = GROUPS, scoring: Scoring = SHAPES, *, is_seen: Any = colors_were_seen, seed: int = 0
) -> dict[str, Any]:
    return summarise(groups, is_seen=is_seen, scoring=scoring, seed=seed)


@dataclass
class Marked:
    prompt: Prompt
    scores: Sequence[Score]


def marked(index: int, metadata: Mapping[str, Any], scores: Sequence[Score]) -> Marked:
    return Marked(Prompt(index=index, text="x", metadata=metadata), scores)


def test_flat_names_are_means_over_pictures_of_unseen_prompts() -> None:
    scores = summary()
    assert (scores["strict"], scores["graded"], scores["geneval"]) == pytest.approx((3 / 6, 1.5 / 6, 9 / 6))
    assert (scores["prompts"], scores["pictures"], scores["pictures_per_prompt"]) == (3, 6, [2, 2])


def test_where_every_prompt_was_seen_the_means_are_over_all_and_say_so() -> None:
    scores = summary(is_seen=lambda prompt: True)
    assert scores["seen"]
    assert scores["strict"] == pytest.approx(5 / 8)
    assert scores["category_mean"]["strict"] == pytest.approx((1 + 0.75 + 0) / 3)
    assert not summary()["seen"]


def test_categories_are_told_apart_and_marked() -> None:
    categories = summary()["by_category"]
    assert list(categories) == ["colors", "counting", "position"]
    counting = {name: value for name, value in categories["counting"].items() if name != "interval"}
    assert counting == {"strict": 0.75, "graded": 0.375, "geneval": 1.75, "prompts": 2, "pictures": 4, "seen": False}
    assert categories["colors"]["seen"]


def test_the_mean_over_categories_counts_each_unseen_one_the_same() -> None:
    scores = summary()
    assert scores["category_mean"]["strict"] == pytest.approx((0.75 + 0.0) / 2)
    assert scores["category_mean"]["categories"] == 2
    assert (scores["category_mean"]["prompts"], scores["category_mean"]["pictures"]) == (3, 6)


def test_one_prompt_says_nothing_of_others() -> None:
    scores = summary()
    assert scores["by_category"]["position"]["interval"] == {"strict": None, "graded": None, "geneval": None}
    assert scores["category_mean"]["interval"]["strict"] is None
    low, high = scores["by_category"]["counting"]["interval"]["strict"]
    assert (low, high) == (0.5, 1.0)  # of two prompts with means .5 and 1, a quarter of the resamples are both of the first


def test_intervals_hold_the_mean_and_are_the_same_for_the_same_seed() -> None:
    groups = [fake_group(index, f"tag {index % 3}", [0.618 * index % 1, 0.414 * index % 1]) for index in range(40)]
    scores = summary(groups, is_seen=lambda prompt: False)
    for means in (scores, scores["category_mean"], *scores["by_category"].values()):
        low, high = means["interval"]["strict"]
        assert low < means["strict"] < high
    assert summary(groups, is_seen=lambda prompt: False) == scores
    assert summary(groups, is_seen=lambda prompt: False, seed=1)["interval"] != scores["interval"]


def test_genevals_own_overall_score_is_the_mean_over_categories() -> None:
    scores = summary(scoring=PHOTOGRAPHS)
    assert scores["headline"] == {"score": "geneval", "over": "categories"}
    assert headline(scores) == scores["category_mean"]["geneval"] == pytest.approx((1.75 + 1.0) / 2)
    assert list(scores["interval"]) == ["geneval", "strict", "graded"]
    assert headline(summary()) == summary()["strict"]


def test_an_exam_counts_every_prompt_the_same_however_many_pictures_it_has() -> None:
    def share(value: float) -> Score:
        return Score(value=value, breakdown={"exam": value, "yes": "a; b", "no": ""})

    groups = [marked(0, {"tag": "counts"}, [share(1.0)]), marked(1, {"tag": "counts"}, [share(0.0), share(0.5), share(0.25)])]
    scores = summary(groups, scoring(ExamReward()), is_seen=lambda prompt: False)
    assert scores["exam"] == headline(scores) == pytest.approx((1.0 + 0.25) / 2)
    assert scores["by_category"]["counts"]["exam"] == scores["exam"]
    assert scores["pictures_per_prompt"] == [1, 3]
    assert scores["headline"] == {"score": "exam", "over": "prompts"}


@pytest.mark.parametrize(
    ("reward", "names"),
    [
        (RandomReward(), ["random", "graded", "strict"]),
        (OcrReward(), ["ocr", "graded", "strict"]),
        (PythonReward(), ["value", "graded", "strict"]),
        (HttpReward(remote=Remote()), ["value", "graded", "strict"]),
        (
            CombinedReward(parts={"strict": OcrReward(), "look": RandomReward()}, weights={"strict": 1, "look": 1}),
            ["value", "strict", "graded"],
        ),
    ],
)
def test_partial_scores_are_the_numbers_that_every_picture_has(reward: Reward, names: list[str]) -> None:
    every: dict[str, float | str] = {"graded": 0.5, "strict": 1.0, "reason": "none"}
    groups = [
        marked(0, {}, [Score(value=0.25, breakdown={**every, "rare": 1.0}), Score(value=0.75, breakdown=every)]),
        marked(1, {}, [Score(value=0.5, breakdown=every)]),
    ]
    scores = summary(groups, scoring(reward), is_seen=lambda prompt: False)
    assert list(scores["interval"]) == names
    assert headline(scores) == pytest.approx(0.5)
    assert list(scores["by_category"]) == [UNTAGGED]


def test_a_breakdown_of_any_names_leaves_the_rows_own_words_alone() -> None:
    plain = [marked(index, {}, [Score(value=0.5, breakdown={})] * 2) for index in range(2)]
    row = summary(plain, scoring(PythonReward()), is_seen=lambda prompt: False)
    assert row.keys() <= ROW
    assert row["category_mean"].keys() <= ROW
    taken = Score(value=0.5, breakdown=dict.fromkeys([*sorted(ROW), "scores/asked", "breakdown/value"], 6.0))
    same = summary(
        [marked(index, {}, [taken] * 2) for index in range(2)], scoring(PythonReward()), is_seen=lambda prompt: False
    )
    assert {name: same[name] for name in row.keys() - {"interval", "category_mean", "by_category"}} == {
        name: row[name] for name in row.keys() - {"interval", "category_mean", "by_category"}
    }
    assert same["interval"]["value"] == [0.5, 0.5]
    assert {same[f"breakdown/{name}"] for name in taken.breakdown} == {6.0}
    assert len(same["interval"]) == 1 + len(taken.breakdown)

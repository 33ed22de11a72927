"""Strict and graded scores of hand-made pictures, and that neither can be gamed."""

import itertools
import random
from typing import Any

import pytest

from reward_server.clauses import clauses, graded, strict
from reward_server.requirements import Requirements
from reward_server.verifiers.geneval import published_verdict
from tests.reward_server.fakes import Seen, seen


def wanted(*include: dict[str, Any]) -> Requirements:
    return Requirements.parse({"tag": "mixed", "include": list(include)})


THREE_RED_CIRCLES = wanted({"class": "circle", "count": 3, "color": "red"})
TWO_COLOURS = wanted({"class": "circle", "count": 1, "color": "red"}, {"class": "circle", "count": 1, "color": "blue"})
BESIDE = wanted(
    {"class": "square", "count": 1, "color": "blue"},
    {"class": "circle", "count": 2, "color": "red", "position": ["left of", 0]},
)
PROMPTS = [THREE_RED_CIRCLES, TWO_COLOURS, BESIDE, wanted({"class": "cross", "count": 1})]
EXACT = [
    [seen("red circle", column=i) for i in range(3)],
    [seen("red circle"), seen("blue circle", column=1)],
    [seen("red circle"), seen("red circle", row=1), seen("blue square", column=2)],
    [seen("green cross")],
]


def unmet(prompt: Requirements, *objects: Seen, unrecognised: int = 0) -> list[str]:
    return [clause.name for clause in clauses(prompt, objects, unrecognised=unrecognised) if not clause.holds]


def scores(prompt: Requirements, objects: list[Seen], unrecognised: int = 0) -> tuple[float, float]:
    judged = clauses(prompt, objects, unrecognised=unrecognised)
    return strict(judged), graded(judged)


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ("red red red", []),
        ("red red", ["count of 3 red circle", "colour of 3 red circle"]),
        ("red red red red", ["count of 3 red circle", "nothing extra"]),
        ("red red blue", ["colour of 3 red circle"]),
        ("red red red blue", ["count of 3 red circle", "colour of 3 red circle", "nothing extra"]),
        ("", ["count of 3 red circle", "colour of 3 red circle", "nothing extra"]),
    ],
)
def test_counting(objects: str, expected: list[str]) -> None:
    assert unmet(THREE_RED_CIRCLES, *[seen(f"{color} circle") for color in objects.split()]) == expected


def test_another_class_or_something_unrecognised_is_extra() -> None:
    circles = EXACT[0]
    assert unmet(THREE_RED_CIRCLES, *circles, seen("red square")) == ["nothing extra"]
    assert unmet(THREE_RED_CIRCLES, *circles, unrecognised=1) == ["nothing extra"]
    assert scores(THREE_RED_CIRCLES, circles, unrecognised=1) == (0.0, 2 / 3)


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ("red blue", []),
        ("blue red", []),
        ("red red", ["colour of 1 blue circle"]),
        ("red green", ["colour of 1 blue circle"]),
        ("red", ["count of 1 blue circle", "colour of 1 blue circle"]),
        ("red blue blue", ["count of 1 blue circle", "nothing extra"]),
        ("green blue red", ["count of 1 red circle", "colour of 1 red circle", "nothing extra"]),
    ],
)
def test_groups_of_one_class_share_its_objects_by_colour(objects: str, expected: list[str]) -> None:
    assert unmet(TWO_COLOURS, *[seen(f"{color} circle") for color in objects.split()]) == expected


def test_a_relation_holds_for_every_pair_whatever_the_colour() -> None:
    blue, relation = seen("blue square", column=1), "2 red circle left of 1 blue square"
    left, right = seen("red circle"), seen("red circle", column=2)
    assert unmet(BESIDE, blue, left, left) == []
    assert unmet(BESIDE, blue, left, right) == [relation]
    assert unmet(BESIDE, blue, seen("green circle"), seen("green circle")) == ["colour of 2 red circle"]
    assert unmet(BESIDE, blue, left) == ["count of 2 red circle", "colour of 2 red circle", relation]
    assert unmet(BESIDE, left, left) == ["count of 1 blue square", "colour of 1 blue square", relation]


@pytest.mark.parametrize(("prompt", "exact"), list(zip(PROMPTS, EXACT, strict=True)))
def test_an_exact_picture_is_perfect_in_any_order_and_a_blank_one_worthless(prompt: Requirements, exact: list[Seen]) -> None:
    for order in itertools.permutations(exact):
        assert scores(prompt, list(order)) == (1.0, 1.0)
    assert scores(prompt, []) == (0.0, 0.0)
    assert scores(prompt, [], unrecognised=5) == (0.0, 0.0)


def random_picture(draw: random.Random, size: int) -> list[Seen]:
    return [
        seen(f"{draw.choice(['red', 'blue', 'green'])} {draw.choice(['circle', 'square', 'cross'])}", row=row, column=column)
        for row, column in draw.sample([(row, column) for row in range(3) for column in range(3)], size)
    ]


@pytest.mark.parametrize(("prompt", "exact"), list(zip(PROMPTS, EXACT, strict=True)))
def test_random_pictures_keep_the_promises(prompt: Requirements, exact: list[Seen]) -> None:
    draw = random.Random(0)
    asked = sum(group.count for group in prompt.include)
    labels = {group.label for group in prompt.include}
    perfect = 0
    for _ in range(2000):
        picture = draw.choice([[], exact]) + random_picture(draw, draw.randrange(7))
        addition = random_picture(draw, 1)
        one, share = scores(prompt, picture)
        assert (one == 1.0) == (share == 1.0)
        if one:
            perfect += 1
            assert len(picture) == asked
            assert {thing.label for thing in picture} == labels
            assert scores(prompt, picture + addition)[0] == 0.0
            assert scores(prompt, picture, unrecognised=1)[0] == 0.0
            assert all(scores(prompt, picture[:i] + picture[i + 1 :])[1] < 1.0 for i in range(len(picture)))
            if prompt is not TWO_COLOURS:  # GenEval gives both groups the same best circles
                assert published_verdict(prompt, picture).correct
        elif len(picture) >= asked:
            assert scores(prompt, picture + addition)[0] == 0.0
        label = addition[0].label
        there, enough = (
            sum(thing.label == label for thing in picture),
            sum(group.count for group in prompt.include if group.label == label),
        )
        if there >= enough and prompt is not TWO_COLOURS:  # where of two circles the blue one may still be missing
            assert scores(prompt, picture + addition)[1] <= share
    assert perfect > 100


def test_requirements_that_cannot_be_judged_are_refused() -> None:
    with pytest.raises(ValueError, match="asks for no object"):
        clauses(Requirements.parse({"tag": "mixed", "exclude": [{"class": "cat", "count": 1}]}), [], unrecognised=0)
    with pytest.raises(ValueError, match="2 include groups ask for 'cat'"):
        clauses(wanted({"class": "cat", "count": 1}, {"class": "cat", "count": 1}), [], unrecognised=0)

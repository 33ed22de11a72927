"""Metadata is refused with the entry named, and read as it stands."""

from pathlib import Path
from typing import Any

import pytest

from reward_server.requirements import MAX_GROUPS, Group, Position, Requirements, validate_metadata

CIRCLE = {"class": "circle", "count": 1}
SQUARE = {"class": "square", "count": 2, "color": "red", "position": ["left of", 0]}


def metadata(*include: object, **others: object) -> dict[str, Any]:
    return {"tag": "mixed", "include": list(include), "prompt": "a picture", **others}


def test_groups_are_read() -> None:
    wanted = validate_metadata(metadata(CIRCLE, SQUARE, exclude=[{"class": "circle", "count": 2}]))
    square = Group(label="square", count=2, color="red", position=Position(relation="left of", target=0))
    assert wanted.include == (Group(label="circle", count=1), square)
    assert wanted.exclude == (Group(label="circle", count=2),)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"include": [CIRCLE]}, "lacks 'tag'"),
        ({"tag": "position"}, "asks for nothing"),
        ({"tag": 3, "include": [CIRCLE]}, "tag is 3"),
        ({"tag": "colours", "include": [CIRCLE]}, "tag is 'colours'; the known tags"),
        ({"tag": "mixed", "include": CIRCLE}, "give a list"),
        ({"tag": "mixed", "exclude": [CIRCLE]}, "include is empty"),
        (metadata("circle"), r"include\[0\] is 'circle'"),
        (metadata({"class": "circle"}), r"include\[0\] lacks \['count'\]"),
        (metadata(CIRCLE, {"count": 1}), r"include\[1\] lacks \['class'\]"),
        (metadata({**CIRCLE, "colour": "red"}), r"unknown keys \['colour'\]"),
        (metadata({**CIRCLE, "count": 0}), r"include\[0\].count is 0"),
        (metadata({**CIRCLE, "count": True}), r"include\[0\].count is True"),
        (metadata({**CIRCLE, "count": 2.0}), r"include\[0\].count is 2.0"),
        (metadata({**CIRCLE, "class": ""}), r"include\[0\].class is ''"),
        (metadata({**CIRCLE, "color": None}), r"include\[0\].color is None"),
        (metadata(CIRCLE, {**SQUARE, "position": ["beside", 0]}), r"include\[1\].position is \['beside', 0\]"),
        (metadata(CIRCLE, {**SQUARE, "position": "above"}), r"include\[1\].position is 'above'"),
        (metadata(CIRCLE, {**SQUARE, "position": ["above", False]}), r"include\[1\].position"),
        (metadata(CIRCLE, {**SQUARE, "position": ["above", 1]}), "refers to group 1"),
        (metadata(CIRCLE, {**SQUARE, "position": ["above", -1]}), "refers to group -1"),
        (metadata(CIRCLE, exclude=[{**CIRCLE, "count": 2, "color": "red"}]), r"exclude\[0\] has unknown keys \['color'\]"),
        (metadata(CIRCLE, exclude=[CIRCLE]), "1 circle are asked for, but exclude forbids 1"),
        (metadata(CIRCLE, {**CIRCLE, "color": "red"}), "2 include groups ask for 'circle'"),
        (metadata({**CIRCLE, "color": "red"}, {**CIRCLE, "color": "red"}), "2 include groups ask for 'circle'"),
    ],
)
def test_what_cannot_be_judged_is_refused_by_name(broken: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate_metadata(broken)


def test_the_published_scoring_takes_what_only_our_scores_cannot_judge() -> None:
    assert Requirements.parse({"tag": "crowd", "include": [CIRCLE, CIRCLE]}).include[0] == Group(label="circle", count=1)
    assert Requirements.parse({"tag": "absence", "exclude": [CIRCLE]}).include == ()


def test_coco_classes_are_accepted_as_geneval_spells_them() -> None:
    names = (Path(__file__).parents[1] / "golden/geneval/object_names.txt").read_text().splitlines()
    assert len(names) == 80
    validate_metadata(metadata({"class": "computer mouse", "count": 1}), labels=names)
    with pytest.raises(ValueError, match="'mouse', which the detector cannot name"):
        validate_metadata(metadata({"class": "mouse", "count": 1}), labels=names)


def test_metadata_that_would_take_long_to_judge_are_refused() -> None:
    many = {"tag": "counting", "include": [{"class": f"c{index}", "count": 1} for index in range(MAX_GROUPS + 1)]}
    with pytest.raises(ValueError, match=f"include has {MAX_GROUPS + 1} groups; give at most {MAX_GROUPS}"):
        Requirements.parse(many)
    long = {"tag": "counting", "include": [{"class": "c" * 1_000_000, "count": 1}]}
    with pytest.raises(ValueError, match=r"include\[0\].class is 'ccc.*; give a word of at most 100 characters") as raised:
        Requirements.parse(long)
    assert len(str(raised.value)) < 400

"""Prompts read from their words agree with their metadata, and placements with the world's own rule of a correct plan."""

from itertools import product

import pytest

from unigrpo.reward_models.shapes_scenes import placements, read_prompt
from unigrpo.shapes.plan import plan_is_correct
from unigrpo.shapes.prompts import Group, shapes_prompts
from unigrpo.shapes.world import CELLS, Item, Scene

EVERY_PROMPT = {prompt.text: prompt for split in ("train", "held_out") for prompt in shapes_prompts(split)}.values()


def test_every_prompt_of_the_world_is_read_as_its_metadata_says() -> None:
    for prompt in EVERY_PROMPT:
        request = read_prompt(prompt.text)
        assert [group.clause() for group in request.groups] == [
            {key: value for key, value in clause.items() if key != "position"} for clause in prompt.metadata["include"]
        ]
        relations = [clause["position"][0] for clause in prompt.metadata["include"] if "position" in clause]
        assert [request.relation] == (relations or [None])


@pytest.mark.parametrize("text", ["a circle", "two red crosses", "a circle and a square", "a red square above a blue square"])
def test_placements_are_all_the_correct_plans_and_no_other(text: str) -> None:
    request = read_prompt(text)
    include = [group.clause() for group in request.groups]
    if request.relation:
        include[1]["position"] = [request.relation, 0]
    listed = {tuple(row) for row in placements(request).tolist()}
    assert len(listed) == len(placements(request))
    total = sum(group.count for group in request.groups)
    for row in product(range(len(include) + 1), repeat=len(CELLS)):
        if 0 < len(CELLS) - row.count(0) <= total + 1:
            items = [
                Item(include[owner - 1].get("color", "red"), include[owner - 1]["class"], cell)
                for owner, cell in zip(row, CELLS, strict=True)
                if owner
            ]
            assert (row in listed) == plan_is_correct({"include": include}, Scene(tuple(items)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a mauve circle", "'a mauve circle' in 'a mauve circle' is not understood"),
        ("two circle", "is not understood"),
        ("a red circle beside a square", "is not understood"),
        ("a circle and a square and a cross", "'a square and a cross'"),
        ("", "'' in '' is not understood"),
        ("a circle above a red circle", "ask for the same objects"),
        ("five circles left of four squares", "does not fit 9 cells"),
    ],
)
def test_what_cannot_be_judged_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        placements(read_prompt(text))


def test_groups_that_colours_tell_apart_are_understood() -> None:
    assert read_prompt("two red circles and a blue circle").groups == (Group(2, "red", "circle"), Group(1, "blue", "circle"))
    assert len(placements(read_prompt("two red circles and a blue circle"))) == 36 * 7

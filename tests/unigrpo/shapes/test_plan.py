"""Plans: drawn right, written and read again, judged strictly, and made wrong."""

import numpy as np
import pytest

from unigrpo.shapes.plan import corrupt_plan, draw_plan, plan_is_correct, read_trace, write_trace
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.shapes.world import Item, Scene

TWO_RED_CIRCLES_LEFT = {
    "tag": "compositional",
    "include": [
        {"class": "square", "count": 1, "color": "blue"},
        {"class": "circle", "count": 2, "color": "red", "position": ["left of", 0]},
    ],
    "prompt": "two red circles left of a blue square",
}


def test_a_trace_reads_as_written() -> None:
    scene = Scene((Item("red", "circle", "A1"), Item("red", "circle", "B2"), Item("blue", "square", "C3")))
    text = "<think> red circle A1 ; red circle B2 ; blue square C3 </think>"
    assert write_trace(scene) == text
    assert read_trace(text) == scene


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<think>",
        "<think> </think>",
        "red circle A1",
        "<think> red circle A1",
        "red circle A1 </think>",
        "<think> red circle A1 ; </think>",
        "<think> red circle A1 blue square C3 </think>",
        "<think> red circle </think>",
        "<think> circle red A1 </think>",
        "<think> red circle D1 </think>",
        "<think> red  circle A1 </think>",
        "<think> red circle A1 </think> </think>",
    ],
)
def test_what_is_no_trace_is_no_plan(text: str) -> None:
    assert read_trace(text) is None


@pytest.mark.parametrize(
    ("trace", "correct"),
    [
        ("blue square C2 ; red circle A2 ; red circle B1", True),
        ("red circle B3 ; blue square C3 ; red circle A1", True),  # both on a diagonal at most, in any order
        ("blue square C3 ; red circle A2 ; red circle B1", False),  # B1 is more above than left of C3
        ("blue square C2 ; red circle A2", False),
        ("blue square C2 ; red circle A2 ; red circle B1 ; red circle A1", False),
        ("blue square C2 ; red circle A2 ; red circle B1 ; green cross A3", False),
        ("blue square C2 ; red circle A2 ; green circle B1", False),
        ("blue square C2 ; red circle A2 ; red square B1", False),
        ("blue square A2 ; red circle C2 ; red circle B1", False),
        ("blue square C2 ; red circle A2 ; red circle A2", False),  # two objects in one cell
    ],
)
def test_a_plan_is_judged_strictly(trace: str, correct: bool) -> None:
    scene = read_trace(f"<think> {trace} </think>")
    assert scene is not None
    assert plan_is_correct(TWO_RED_CIRCLES_LEFT, scene) is correct


def test_drawn_plans_are_correct_and_corrupted_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    for prompt in (*shapes_prompts("train"), *shapes_prompts("held_out")):
        scene = draw_plan(prompt.metadata, rng)
        assert plan_is_correct(prompt.metadata, scene)
        assert read_trace(write_trace(scene)) == scene
        corrupted = corrupt_plan(prompt.metadata, scene, rng)
        assert not plan_is_correct(prompt.metadata, corrupted)
        assert read_trace(write_trace(corrupted)) == corrupted
        assert len({item.cell for item in corrupted.items}) == len(corrupted.items)


def test_drawn_plans_leave_open_what_the_prompt_leaves_open() -> None:
    rng = np.random.default_rng(0)
    metadata = {"tag": "single_object", "include": [{"class": "cross", "count": 1}], "prompt": "a cross"}
    items = [draw_plan(metadata, rng).items[0] for _ in range(600)]
    assert {item.shape for item in items} == {"cross"}
    colors, cells = (np.unique(names, return_counts=True)[1] for names in zip(*((i.color, i.cell) for i in items), strict=True))
    assert len(colors) == 6
    assert colors.min() > 600 / 6 * 0.7
    assert len(cells) == 9
    assert cells.min() > 600 / 9 * 0.6


def test_every_kind_of_fault_is_drawn() -> None:
    rng = np.random.default_rng(0)
    scene = read_trace("<think> blue square C2 ; red circle A2 ; red circle B1 </think>")
    assert scene is not None
    plans = [corrupt_plan(TWO_RED_CIRCLES_LEFT, scene, rng) for _ in range(200)]
    sizes = {len(plan.items) for plan in plans}
    same_cells = [plan for plan in plans if [item.cell for item in plan.items] == ["C2", "A2", "B1"]]
    assert sizes == {2, 3, 4}
    assert any([item.color for item in plan.items] != ["blue", "red", "red"] for plan in same_cells)
    assert any([item.shape for item in plan.items] != ["square", "circle", "circle"] for plan in same_cells)
    assert read_trace("<think> blue square A2 ; red circle C2 ; red circle B1 </think>") in plans  # mirrored


@pytest.mark.parametrize(
    "clause",
    [{"class": "circle", "count": 10}, {"class": "bench", "count": 1}, {"class": "circle", "count": 1, "color": "pink"}],
)
def test_a_prompt_that_no_plan_satisfies_is_named(clause: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no plan can satisfy 'the impossible'"):
        draw_plan({"tag": "mixed", "include": [clause], "prompt": "the impossible"}, np.random.default_rng(0))

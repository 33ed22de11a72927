"""What travels together, and which draws belong to which sample of a batch."""

from pathlib import Path

from cluster.pieces import Piece, Sampling, cut
from cluster.spans import Kept
from tests.cluster.fakes import fake_ref
from unigrpo.seeds import derive_seed
from unigrpo.types import Given, Prompt

SAMPLING = Sampling(seed=3, step=5, group_size=2, temperature=1.0, num_points=4, prompts_per_piece=2, judge="training")
SYSTEM = Given(token_ids=(8, 9))


def pieces(indices: list[int], pictures: tuple[int, ...] = ()) -> list[Piece]:
    prompts = [
        Prompt(index=index, text="x" * index, picture=Path(f"{index}.png") if index in pictures else None, metadata={})
        for index in indices
    ]
    return list(cut(prompts, SAMPLING, encode=lambda text: (len(text),), system=[SYSTEM]))


def test_pieces_hold_the_prompts_in_order() -> None:
    first, second = pieces([4, 7, 2])
    assert [prompt.index for prompt in first.prompts] == [4, 7]
    assert (second.places, second.given) == ((2,), ((SYSTEM, Given(token_ids=(2,))),))
    assert str(first) == "prompts 0, 1"


def test_prompts_with_pictures_travel_apart() -> None:
    text, edits, last = pieces([4, 7, 2, 5, 6], pictures=(4, 2, 6))
    assert [(piece.places, piece.edits) for piece in (text, edits, last)] == [
        ((1, 3), False),
        ((0, 2), True),
        ((4,), True),
    ]


def test_a_picture_stands_between_the_system_prompt_and_the_text() -> None:
    [piece] = pieces([4, 7], pictures=(4, 7))
    first, second = Kept(fake_ref(), 1), Kept(fake_ref(), 2)
    assert piece.with_pictures([first, second]).given == (
        (SYSTEM, first, Given(token_ids=(4,))),
        (SYSTEM, second, Given(token_ids=(7,))),
    )


def test_seeds_belong_to_seed_step_prompt_and_sibling() -> None:
    [piece] = pieces([4])
    assert piece.seeds("thought", SAMPLING) == [[derive_seed(3, "thought", 5, 4, sibling) for sibling in range(2)]]


def test_siblings_edit_the_same_draw_of_a_picture() -> None:
    one, other = pieces([4, 7, 4], pictures=(4, 7))
    assert one.picture_seeds(SAMPLING) == [derive_seed(3, "picture", 5, 4), derive_seed(3, "picture", 5, 7)]
    assert other.picture_seeds(SAMPLING) == [derive_seed(3, "picture", 5, 4)]


def test_a_prompt_that_comes_twice_in_a_batch_is_drawn_anew() -> None:
    seeds = [seed for piece in pieces([4, 7, 4]) for seeds_G in piece.seeds("painting", SAMPLING) for seed in seeds_G]
    assert len(set(seeds)) == 6

"""What travels together, and which draws belong to which sample of a batch."""

from dataclasses import replace
from pathlib import Path

from cluster.pieces import Piece, Sampling, cut
from cluster.spans import Kept
from configs.algorithms import Window
from tests.cluster.fakes import fake_ref
from unigrpo.algo.flow import window_start
from unigrpo.seeds import derive_seed
from unigrpo.types import Given, Prompt

SAMPLING = Sampling(seed=3, step=5, group_size=2, temperature=1.0, num_points=4, prompts_per_piece=2, judge="training")
SYSTEM = Given(token_ids=(8, 9))


def pieces(indices: list[int], pictures: tuple[int, ...] = (), sampling: Sampling = SAMPLING) -> list[Piece]:
    prompts = [
        Prompt(index=index, text="x" * index, picture=Path(f"{index}.png") if index in pictures else None, metadata={})
        for index in indices
    ]
    return list(cut(prompts, sampling, encode=lambda text: (len(text),), system=[SYSTEM]))


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
    assert piece.thought_seeds(SAMPLING) == [[derive_seed(3, "thought", 5, 4, sibling) for sibling in range(2)]]
    assert piece.painting_seeds(SAMPLING) == [[derive_seed(3, "painting", 5, 4, sibling) for sibling in range(2)]]


def test_thoughts_that_are_painted_several_times_are_numbered_apart_from_their_paintings() -> None:
    nested = replace(SAMPLING, group_size=6, images_per_thought=3)
    _, again = pieces([4, 7, 4], sampling=nested)
    assert again.thought_seeds(nested) == [[derive_seed(3, "thought", 5, 4, number) for number in (2, 3)]]
    assert again.painting_seeds(nested) == [[derive_seed(3, "painting", 5, 4, number) for number in range(6, 12)]]


def test_a_window_is_the_steps_or_each_paintings_own() -> None:
    recorded = replace(SAMPLING, leaves_trajectories=True, window=Window(range=(0, 9), size=2, noise_level=0.7))
    seeds = [derive_seed(3, "painting", 5, 4, sibling) for sibling in range(20)]
    start = window_start(3, 5, (0, 9), 2)
    assert recorded.windows(seeds) == [range(start, start + 2)] * 20
    assert recorded.noise_level == 0.7
    own = replace(recorded, window=Window(range=(0, 9), size=2, placement="sample"))
    starts = [window_start(seed, 5, (0, 9), 2) for seed in seeds]
    assert own.windows(seeds) == [range(each, each + 2) for each in starts]
    assert len(set(starts)) > 3


def test_without_a_window_finished_latents_are_recorded_or_nothing() -> None:
    assert replace(SAMPLING, leaves_trajectories=True).windows([1, 2]) == [range(0), range(0)]
    assert SAMPLING.windows([1, 2]) is None
    assert replace(SAMPLING, window=Window()).windows([1, 2]) is None
    assert SAMPLING.noise_level == 0


def test_siblings_edit_the_same_draw_of_a_picture() -> None:
    one, other = pieces([4, 7, 4], pictures=(4, 7))
    assert one.picture_seeds(SAMPLING) == [derive_seed(3, "picture", 5, 4), derive_seed(3, "picture", 5, 7)]
    assert other.picture_seeds(SAMPLING) == [derive_seed(3, "picture", 5, 4)]


def test_a_prompt_that_comes_twice_in_a_batch_is_drawn_anew() -> None:
    seeds = [seed for piece in pieces([4, 7, 4]) for seeds_G in piece.painting_seeds(SAMPLING) for seed in seeds_G]
    assert len(set(seeds)) == 6

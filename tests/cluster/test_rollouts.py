"""Which draws belong to which sample of a batch, and who is handed its paintings."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from cluster.judging import Judges, Tally
from cluster.rollouts import Piece, Rollouts, Sampling, Unjudged
from tests.cluster.fakes import fake_ref
from unigrpo.seeds import derive_seed
from unigrpo.types import Prompt, Score

SAMPLING = Sampling(seed=3, step=5, group_size=2, temperature=1.0, num_points=4, prompts_per_piece=2, judge="training")


class FakeJudges:
    """Scores every group at once, but drops those of prompt 7."""

    def __init__(self) -> None:
        self.tally, self.pools = Tally(), dict[str, Any]()

    def judge(self, name: str, prompt: Prompt, paintings: Any, size: int, done: Callable[[Sequence[Score]], None]) -> None:
        if prompt.index == 7:
            self.tally.dropped += 1
        else:
            done([Score(value=1.0, breakdown={})] * size)


def rollouts_of_nobody() -> Rollouts:
    return Rollouts(
        reasoners=[],
        denoisers=[],
        judges={"training": cast(Judges, FakeJudges())},
        encode=lambda text: (len(text),),
        system_ids=(),
        eos=1,
        timeout=1.0,
        watch=lambda pools, tally: None,
    )


def prompts_of(indices: list[int]) -> list[Prompt]:
    return [Prompt(index=index, text="x" * index, metadata={}) for index in indices]


def pieces(indices: list[int]) -> list[Piece]:
    return list(rollouts_of_nobody()._pieces(prompts_of(indices), SAMPLING))


def test_pieces_hold_the_prompts_in_order() -> None:
    first, second = pieces([4, 7, 2])
    assert [prompt.index for prompt in first.prompts] == [4, 7]
    assert (second.first, second.prompt_ids) == (2, ((2,),))
    assert str(first) == "prompts 0-1"


def test_seeds_belong_to_seed_step_prompt_and_sibling() -> None:
    [piece] = pieces([4])
    assert piece.seeds("thought", SAMPLING) == [[derive_seed(3, "thought", 5, 4, sibling) for sibling in range(2)]]


def test_a_prompt_that_comes_twice_in_a_batch_is_drawn_anew() -> None:
    seeds = [seed for piece in pieces([4, 7, 4]) for seeds_G in piece.seeds("painting", SAMPLING) for seed in seeds_G]
    assert len(set(seeds)) == 6


def test_paintings_are_handed_on_before_they_are_judged_and_then_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts, handed = rollouts_of_nobody(), list[Unjudged]()

    def paint_at_once(piece: Piece, sampling: Sampling, judge: Callable[[int, Unjudged], None]) -> None:
        for place, prompt in enumerate(piece.prompts):
            judge(
                piece.first + place,
                Unjudged(prompt=prompt, given=(), thoughts=(), paintings=fake_ref(), trajectories=()),
            )

    monkeypatch.setattr(rollouts, "_think", paint_at_once)
    groups = rollouts.generate(prompts_of([4, 7, 2]), SAMPLING, handed.append)
    assert [each.prompt.index for each in handed] == [4, 7, 2]
    assert [(group.prompt.index, group.paintings) for group in groups] == [(4, None), (2, None)]
    assert rollouts.tally.dropped == 1
    assert all(group.paintings is not None for group in rollouts.generate(prompts_of([4, 2]), SAMPLING))

"""Which draws belong to which sample of a batch, and who is handed its paintings."""

from cluster.rollouts import Piece, Rollouts, Sampling
from unigrpo.seeds import derive_seed
from unigrpo.types import Prompt

SAMPLING = Sampling(seed=3, step=5, group_size=2, temperature=1.0, num_points=4, prompts_per_piece=2, judge="training")


def pieces(indices: list[int]) -> list[Piece]:
    rollouts = Rollouts(
        reasoners=[],
        denoisers=[],
        judges={},
        encode=lambda text: (len(text),),
        system_ids=(),
        eos=1,
        timeout=1.0,
        watch=lambda pools, tally: None,
    )
    prompts = [Prompt(index=index, text="x" * index, metadata={}) for index in indices]
    return list(rollouts._pieces(prompts, SAMPLING))


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

"""Packed rows: what stands where, and what sees what.

Shapes: T tokens of a row, L latent tokens, C channels, HW3 a picture.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.unigrpo.models.fakes import CONFIG
from tests.unigrpo.models.released import SEEING
from tests.unigrpo.models.splits import clean, drawn, noised, packed_row, random_sample, seen
from tests.unigrpo.models.test_bagel_parity import allowed_pairs
from unigrpo.models.bagel.packing import Clean, Gap, Noised, Seen, Split, Text, splits_of
from unigrpo.models.bagel.preprocess import normalised
from unigrpo.types import Given, GivenPicture, Thought

START, END = SEEING.start_of_image, SEEING.end_of_image
BOS, EOS = SEEING.bos_token_id, SEEING.eos_token_id


def test_a_row_by_hand() -> None:
    sample: list[Split] = [Text((7, 8, 9)), Gap(), clean((2, 1)), seen((1, 1)), noised((1, 2), t=0.25), Text((4, 5))]
    row = packed_row([sample, [Text((6,))]])
    assert row.ids_U.tolist() == [7, 8, 9, START, END, START, END, START, END, 4, 5, 6]
    text_positions = [0, 1, 2, 4, 4, 5, 5, 6, 6, 6, 7, 0]  # the gap takes 3; text after the noised picture takes its 6 again
    assert row.position_T.tolist() == [*text_positions, 5, 4, 4, 6, 6]
    assert row.tokens == ((0, 1, 2, 3, 13, 14, 4, 5, 12, 6, 7, 15, 16, 8, 9, 10), (11,))
    assert row.places == ((range(3), range(0), range(2), range(1), range(2, 4), range(9, 11)), (range(11, 12),))
    assert row.next_position_S == (8, 1)
    assert row.t_B.tolist() == [0.0, 0.25]
    assert row.level_L.tolist() == [0, 0, 1, 1]
    assert row.noised_N.tolist() == [2, 3]
    assert row.latent_row_L.tolist() == [0, SEEING.max_latent_size, 0, 1]
    assert row.patch_row_V.tolist() == [0]
    assert (row.sees, row.paints) == (True, True)


def dense_mask(samples: Sequence[Sequence[Split]]) -> Tensor:
    """[T, T] of all tokens in the order of their samples.

    Nothing crosses samples. Within a split text is causal and a picture sees all of itself; an earlier split is seen unless
    it is noised.
    """
    owner = [
        (at, index) for at, sample in enumerate(samples) for index, split in enumerate(sample) for _ in range(split.num_tokens)
    ]
    allowed_TT = torch.zeros(len(owner), len(owner), dtype=torch.bool)
    for i, (sample, split) in enumerate(owner):
        for j, (other_sample, other) in enumerate(owner):
            if sample != other_sample:
                continue
            if split == other:
                allowed_TT[i, j] = j <= i or not isinstance(samples[sample][split], Text)
            else:
                allowed_TT[i, j] = other < split and not isinstance(samples[sample][other], Noised)
    return allowed_TT


def rope_positions(samples: Sequence[Sequence[Split]]) -> list[int]:
    """Of all tokens in the order of their samples."""
    positions: list[int] = []
    for sample in samples:
        counter = 0
        for split in sample:
            if isinstance(split, Text):
                positions += range(counter, counter + len(split.ids))
                counter += len(split.ids)
            else:
                positions += [counter] * split.num_tokens
                counter += not isinstance(split, Noised)
    return positions


@pytest.mark.parametrize("seed", range(10))
def test_random_samples_see_what_the_specification_says(seed: int) -> None:
    generator = random.Random(seed)
    samples = [random_sample(generator) for _ in range(5)]
    row = packed_row(samples)
    order = [place for tokens in row.tokens for place in tokens]
    assert sorted(order) == list(range(len(row.position_T)))
    assert torch.equal(allowed_pairs(row)[order][:, order], dense_mask(samples))
    assert row.position_T[order].tolist() == rope_positions(samples)
    patches = [len(split.patches_VC) for sample in samples for split in sample if isinstance(split, Seen)]
    if patches:
        own_picture = torch.block_diag(*(torch.ones(size, size) for size in patches)).bool()
        assert row.attend_patches is not None
        tower_row = replace(row, attend=row.attend_patches, position_T=row.patch_row_V)
        assert torch.equal(allowed_pairs(tower_row), own_picture)


def test_spans_become_wrapped_texts_and_two_blocks_a_picture() -> None:
    image_HW3 = torch.randint(0, 256, (28, 42, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    latent_LC = drawn(0, 2, SEEING.latent_channels)
    picture = GivenPicture(latent_LC=latent_LC, grid_hw=(1, 2), seen_HW3=image_HW3)
    thought = Thought(token_ids=(3, 4, EOS), behavior_logp=(0.0,) * 3, truncated=False, policy_version=0)
    cut = Thought(token_ids=(3, 4), behavior_logp=(0.0,) * 2, truncated=True, policy_version=0)
    latents, patches, *texts = splits_of([picture, Given(token_ids=(1, 2)), thought, cut], SEEING)
    assert texts == [Text([BOS, 1, 2, EOS]), Text([BOS, 3, 4, EOS]), Text([BOS, 3, 4, EOS])]
    assert latents == Clean(latent_LC, (1, 2))
    assert isinstance(patches, Seen)
    assert patches.grid_hw == (2, 3)
    expected = normalised(image_HW3)[:, 14:, 28:]  # row 1, column 2: the last patch
    assert torch.equal(patches.patches_VC[5], expected.permute(1, 2, 0).flatten())


@pytest.mark.parametrize(
    ("keeps_latents", "keeps_patches", "positions"),
    [
        (False, True, [1, 1, 1, 1, 2]),  # markers and two patches at 1
        (True, False, [0, 0, 0, 2]),  # markers and one latent token at 0
        (False, False, [2]),
    ],
)
def test_a_dropped_picture_keeps_its_positions(keeps_latents: bool, keeps_patches: bool, positions: list[int]) -> None:
    picture = GivenPicture(
        latent_LC=drawn(0, 1, SEEING.latent_channels) if keeps_latents else None,
        grid_hw=(1, 1),
        seen_HW3=torch.zeros(14, 28, 3, dtype=torch.uint8) if keeps_patches else None,
    )
    splits = splits_of([picture], SEEING)
    assert [isinstance(split, Gap) for split in splits] == [not keeps_latents, not keeps_patches]
    row = packed_row([[*splits, Text((5,))]])
    assert row.position_T[list(row.tokens[0])].tolist() == positions
    assert row.next_position_S == (3,)


def test_a_model_without_vision_takes_no_pictures() -> None:
    picture = GivenPicture(latent_LC=drawn(0, 1, CONFIG.latent_channels), grid_hw=(1, 1), seen_HW3=None)
    with pytest.raises(ValueError, match="no vision tower; use a checkpoint that has one"):
        splits_of([Given(token_ids=(1,)), picture], CONFIG)

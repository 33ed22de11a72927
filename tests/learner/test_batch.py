"""Rows and micro-batches against layouts written out by hand."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from learner.batch import (
    FlowBatch,
    Packer,
    Row,
    SftExample,
    TextBatch,
    cut,
    flow_batch,
    sees_pictures,
    sft_row,
    text_batch,
    text_row,
    window_steps,
)
from learner.terms.paintings import dummy_row, dummy_trajectory, painting_rows
from learner.window import Window
from tests.unigrpo.models.fakes import CONFIG
from unigrpo.models.bagel.packing import Noised, Split, Text
from unigrpo.types import Given, GivenPicture, Sample, Span, Thought, Trajectory

BOS, EOS = CONFIG.bos_token_id, CONFIG.eos_token_id
C = CONFIG.latent_channels
SHAPE = (2, 4, C)
GRID = [1.0, 0.75, 0.5, 0.25, 0.0]
WINDOW = Window(torch.tensor(GRID, dtype=torch.float64), range(3), 2, 0.8)


def thought(*ids: int, truncated: bool = False) -> Thought:
    logp = tuple(-0.1 * (i + 1) for i in range(len(ids)))
    return Thought(token_ids=ids, behavior_logp=logp, truncated=truncated, policy_version=0)


def prompted(*spans: Span, advantages: Sequence[float] | None = None) -> Sample:
    made = sum(isinstance(span, Thought | Trajectory) for span in spans)
    return Sample(prompt="seven", spans=(Given(token_ids=(7,)), *spans), advantages=tuple(advantages or [0.0] * made))


def trajectory(value: float = 0.0, start: int = 1) -> Trajectory:
    latents = torch.full(SHAPE, value)
    return Trajectory(
        x_WLC=latents,
        x_next_WLC=latents + 1,
        mean_WLC=latents + 2,
        start=start,
        grid_N=torch.linspace(1, 0, 4, dtype=torch.float64),
        sigma_W=torch.ones(2, dtype=torch.float64),
        latent_LC=latents[0],
        grid_hw=(2, 2),
        cfg_scale=1.0,
        policy_version=0,
    )


def packer(*, sees: bool = False, paints: bool = False) -> Packer:
    return Packer(config=CONFIG, device=torch.device("cpu"), dtype=torch.float32, sees=sees, paints=paints)


def texts(*samples: Sample) -> TextBatch:
    return text_batch([text_row(sample, CONFIG) for sample in samples], packer())


def flows(*samples: Sample) -> FlowBatch:
    return flow_batch([row for sample in samples for row in rows_of(sample)], packer(), WINDOW)


def rows_of(sample: Sample, *, guided: bool = False) -> list[Row]:
    return painting_rows(sample, CONFIG, lambda painted: window_steps(painted, WINDOW), guided=guided)


def ids_of(splits: tuple[Split, ...]) -> list[int]:
    return [token for split in splits if isinstance(split, Text) for token in split.ids]


def test_a_text_batch_predicts_the_thought_and_its_sampled_eos() -> None:
    batch = texts(prompted(thought(8, 9, EOS), trajectory()))
    assert batch.packed.ids_U.tolist() == [BOS, 7, EOS, BOS, 8, 9, EOS]
    assert batch.row_M.tolist() == [3, 4, 5]  # bos, 8 and 9 predict 8, 9 and eos
    assert batch.target_M.tolist() == [8, 9, EOS]
    assert batch.behavior_logp_SN.tolist() == [pytest.approx([-0.1, -0.2, -0.3])]


def test_a_truncated_thought_is_closed_without_predicting_its_eos() -> None:
    batch = texts(prompted(thought(8, 9, truncated=True)))
    assert batch.packed.ids_U.tolist() == [BOS, 7, EOS, BOS, 8, 9, EOS]
    assert batch.row_M.tolist() == [3, 4]
    assert batch.target_M.tolist() == [8, 9]


def test_two_thoughts_of_one_sample_are_both_predicted_whatever_was_painted_between() -> None:
    spans = (thought(8, EOS), trajectory(), Given(token_ids=(5, 6)), thought(9, EOS))
    batch = texts(prompted(*spans, advantages=[0.5, -1.0, 0.25]))
    assert batch.advantage_SN.tolist() == [[0.5, 0.5, 0.25, 0.25]]
    assert batch.packed.ids_U.tolist() == [BOS, 7, EOS, BOS, 8, EOS, BOS, 5, 6, EOS, BOS, 9, EOS]
    assert batch.row_M.tolist() == [3, 4, 10, 11]
    assert batch.target_M.tolist() == [8, EOS, 9, EOS]


def test_every_painting_has_a_row_with_what_was_said_before_it() -> None:
    made = (thought(8, EOS), trajectory(1.0), thought(9, EOS), trajectory(2.0, start=2))
    first, second = rows_of(prompted(*made, advantages=[0.1, 0.2, 0.3, 0.4]))
    assert ids_of(first.splits) == [BOS, 7, EOS, BOS, 8, EOS]
    assert ids_of(second.splits) == [BOS, 7, EOS, BOS, 8, EOS, BOS, 9, EOS]
    for row, value, times in ((first, 1.0, GRID[1:3]), (second, 2.0, GRID[2:4])):
        window = [split for split in row.splits if isinstance(split, Noised)]
        assert [(step.t, step.grid_hw, float(step.x_LC.mean())) for step in window] == [(t, (2, 2), value) for t in times]
    assert (first.advantages, second.advantages) == ((0.2,), (0.4,))


def test_paintings_of_one_thought_each_have_a_row_over_it() -> None:
    rows = rows_of(prompted(thought(8, EOS), trajectory(1.0), trajectory(2.0), advantages=[0.1, 0.2, 0.3]))
    assert [ids_of(row.splits) for row in rows] == [[BOS, 7, EOS, BOS, 8, EOS]] * 2
    assert [row.advantages for row in rows] == [(0.2,), (0.3,)]


def test_guidance_packs_the_same_steps_once_more_without_the_prompt_and_what_follows() -> None:
    sample = Sample(
        prompt="seven",
        spans=(Given(token_ids=(5,)), Given(token_ids=(7,)), thought(8, EOS), trajectory(1.0)),
        advantages=(0.0, 0.0),
    )
    [row] = rows_of(sample, guided=True)
    assert ids_of(row.unprompted) == [BOS, 5, EOS]
    assert row.unprompted[1:] == row.splits[3:]
    assert row.num_tokens == (9 + 2 * 6) + (3 + 2 * 6)
    batch = flow_batch([row], packer(), WINDOW)
    assert batch.packed.t_B.tolist() == GRID[1:3] * 2
    assert len(batch.packed.noised_N) == 2 * batch.x_SWLC[..., 0].numel()


def test_an_example_is_laid_out_like_a_sample() -> None:
    latents, noise = torch.ones(4, C), torch.full((2, 4, C), 3.0)
    example = SftExample(
        given=(Given(token_ids=(7,)),),
        thought=(8, 9),
        latent_LC=latents,
        grid_hw=(2, 2),
        t_K=torch.tensor([0.25, 1.0]),
        noise_KLC=noise,
    )
    row, sampled = sft_row(example, CONFIG), text_row(prompted(thought(8, 9, EOS)), CONFIG)
    assert (row.splits[:2], row.thoughts) == (sampled.splits, sampled.thoughts)
    noised = [split for split in row.splits if isinstance(split, Noised)]
    assert [(each.t, float(each.x_LC.mean())) for each in noised] == [(0.25, 1.5), (1.0, 3.0)]  # (1 - t) 1 + t 3
    assert sft_row(replace(example, thought=None), CONFIG).thoughts == {}


def test_text_batches_are_packed_and_masked() -> None:
    batch = texts(prompted(thought(8, EOS), advantages=[1.0]), prompted(thought(8, 9, EOS), advantages=[-1.0]))
    assert batch.packed.ids_U.tolist() == [BOS, 7, EOS, BOS, 8, EOS, BOS, 7, EOS, BOS, 8, 9, EOS]
    assert batch.row_M.tolist() == [3, 4, 9, 10, 11]
    assert batch.target_M.tolist() == [8, EOS, 8, 9, EOS]
    assert batch.mask_SN.tolist() == [[True, True, False], [True, True, True]]
    assert batch.advantage_SN.tolist() == [[1.0, 1.0, 0.0], [-1.0, -1.0, -1.0]]
    assert batch.weight_S.tolist() == [1.0, 1.0]


def test_flow_batches_stack_the_windows() -> None:
    batch = flows(prompted(trajectory(0.0), advantages=[1.0]), prompted(trajectory(5.0, start=2), advantages=[2.0]))
    assert batch.x_SWLC[:, 0, 0, 0].tolist() == [0.0, 5.0]
    assert batch.x_next_SWLC[:, 0, 0, 0].tolist() == [1.0, 6.0]
    assert batch.behavior_mean_SWLC[:, 0, 0, 0].tolist() == [2.0, 7.0]
    assert batch.advantage_S.tolist() == [1.0, 2.0]
    assert batch.t_SW.tolist() == [GRID[1:3], GRID[2:4]]
    assert batch.t_next_SW.tolist() == [GRID[2:4], GRID[3:5]]
    assert len(batch.packed.noised_N) == 2 * 2 * 4


def test_dummies_weigh_nothing() -> None:
    nothing = dummy_trajectory(WINDOW, (3, 3), C)  # more tokens than a side of the position table
    rows = [dummy_row(nothing, window_steps(nothing, WINDOW), guided=guided) for guided in (False, True)]
    text, flow = text_batch([], packer()), flow_batch(rows[:1], packer(), WINDOW)
    assert text.weight_S.tolist() == flow.weight_S.tolist() == [0.0]
    assert not text.mask_SN.any()
    assert len(text.target_M) == 0
    assert flow.x_SWLC.shape == (1, 2, 9, C)
    assert len(flow.packed.noised_N) == 2 * 9
    assert len(flow_batch(rows[1:], packer(), WINDOW).packed.noised_N) == 2 * 2 * 9


def test_whether_pictures_are_seen_is_known_from_the_spans() -> None:
    picture = GivenPicture(latent_LC=None, grid_hw=(2, 2), seen_HW3=None)
    assert not sees_pictures([prompted(trajectory())])
    assert sees_pictures([prompted(trajectory()), prompted(picture)])


def test_cuts_are_sorted_by_length_and_stable() -> None:
    rows = {word: Row(splits=(Text(list(range(len(word)))),), thoughts={}) for word in ("ccc", "a", "bb", "d", "ee")}
    assert cut(list(rows), rows.__getitem__, 2) == [["a", "d"], ["bb", "ee"], ["ccc"]]
    assert cut([], rows.__getitem__, 2) == []

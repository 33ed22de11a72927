"""Chains and micro-batches against layouts written out by hand."""

from dataclasses import dataclass

import pytest
import torch

from learner.batch import SftExample, chain_of, chain_of_example, cut, flow_batch, text_batch
from unigrpo.types import Given, Sample, Thought, Trajectory

BOS, EOS = 90, 91


@dataclass(frozen=True)
class Tokens:
    bos_token_id: int = BOS
    eos_token_id: int = EOS


def thought(*ids: int, truncated: bool = False) -> Thought:
    logp = tuple(-0.1 * (i + 1) for i in range(len(ids)))
    return Thought(token_ids=ids, behavior_logp=logp, truncated=truncated, policy_version=0)


def prompted(*spans: Thought | Trajectory) -> Sample:
    return Sample(spans=(Given(token_ids=(7,)), *spans), advantage=0.0)


def trajectory(value: float = 0.0) -> Trajectory:
    latents = torch.full((2, 4, 3), value)
    return Trajectory(
        x_WLC=latents,
        x_next_WLC=latents + 1,
        mean_WLC=latents + 2,
        start=0,
        grid_N=torch.linspace(1, 0, 4, dtype=torch.float64),
        sigma_W=torch.ones(2, dtype=torch.float64),
        grid_hw=(2, 2),
        cfg_scale=1.0,
        policy_version=0,
    )


def test_chain_predicts_the_thought_and_its_sampled_eos() -> None:
    chain = chain_of(prompted(thought(8, 9, EOS), trajectory()), Tokens())
    assert chain.ids == [BOS, 7, EOS, BOS, 8, 9, EOS]
    assert chain.positions == [3, 4, 5]  # bos, 8 and 9 predict 8, 9 and eos
    assert chain.targets == [8, 9, EOS]
    assert chain.behavior_logp == pytest.approx([-0.1, -0.2, -0.3])
    assert chain.trajectory is not None


def test_a_truncated_thought_is_closed_without_predicting_its_eos() -> None:
    chain = chain_of(prompted(thought(8, 9, truncated=True)), Tokens())
    assert chain.ids == [BOS, 7, EOS, BOS, 8, 9, EOS]
    assert chain.positions == [3, 4]
    assert chain.targets == [8, 9]


def test_two_thoughts_of_one_sample_are_both_predicted() -> None:
    spans = (Given(token_ids=(7,)), thought(8, EOS), Given(token_ids=(5, 6)), thought(9, EOS))
    chain = chain_of(Sample(spans=spans, advantage=1.0), Tokens())
    assert chain.ids == [BOS, 7, EOS, BOS, 8, EOS, BOS, 5, 6, EOS, BOS, 9, EOS]
    assert chain.positions == [3, 4, 10, 11]
    assert chain.targets == [8, EOS, 9, EOS]


def test_a_span_after_a_painting_is_refused() -> None:
    with pytest.raises(ValueError, match="a Thought follows a painting"):
        chain_of(prompted(trajectory(), thought(8, EOS)), Tokens())


def test_an_example_is_laid_out_like_a_sample() -> None:
    latents = torch.zeros(4, 3)
    example = SftExample(
        given=((7,),), thought=(8, 9), latent_LC=latents, grid_hw=(2, 2), t_K=torch.ones(1), noise_KLC=latents[None]
    )
    sampled = chain_of(prompted(thought(8, 9, EOS)), Tokens())
    chain = chain_of_example(example, Tokens())
    assert (chain.ids, chain.positions, chain.targets) == (sampled.ids, sampled.positions, sampled.targets)


def test_text_batches_are_padded_and_masked() -> None:
    chains = [chain_of(prompted(thought(*ids)), Tokens()) for ids in ((8, EOS), (8, 9, EOS))]
    batch = text_batch(chains, [1.0, -1.0])
    assert batch.ids_ST.tolist() == [[BOS, 7, EOS, BOS, 8, EOS, 0], [BOS, 7, EOS, BOS, 8, 9, EOS]]
    assert batch.length_S.tolist() == [6, 7]
    assert batch.position_SN.tolist() == [[3, 4, 0], [3, 4, 5]]
    assert batch.target_SN.tolist() == [[8, EOS, 0], [8, 9, EOS]]
    assert batch.mask_SN.tolist() == [[True, True, False], [True, True, True]]
    assert batch.advantage_S.tolist() == [1.0, -1.0]
    assert batch.weight_S.tolist() == [1.0, 1.0]


def test_flow_batches_stack_the_windows() -> None:
    chains = [chain_of(prompted(trajectory(value)), Tokens()) for value in (0.0, 5.0)]
    batch = flow_batch(chains, [1.0, 2.0], (2, 4, 3))
    assert batch.x_SWLC[:, 0, 0, 0].tolist() == [0.0, 5.0]
    assert batch.x_next_SWLC[:, 0, 0, 0].tolist() == [1.0, 6.0]
    assert batch.behavior_mean_SWLC[:, 0, 0, 0].tolist() == [2.0, 7.0]


def test_dummies_weigh_nothing() -> None:
    text, flow = text_batch([]), flow_batch([], [], (2, 4, 3))
    assert text.weight_S.tolist() == flow.weight_S.tolist() == [0.0]
    assert not text.mask_SN.any()
    assert flow.x_SWLC.shape == (1, 2, 4, 3)


def test_cuts_are_sorted_by_length_and_stable() -> None:
    assert cut(["ccc", "a", "bb", "d", "ee"], len, 2) == [["a", "d"], ["bb", "ee"], ["ccc"]]
    assert cut([], len, 2) == []

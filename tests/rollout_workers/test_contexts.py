"""Which contexts guidance compares with, and that what several samples share is read once."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from rollout_workers.contexts import read, read_thoughts
from tests.rollout_workers.fakes import SEEING, random_model
from unigrpo.contexts import ContextSpan, without_last_text, without_pictures
from unigrpo.models.bagel.context import Context
from unigrpo.models.bagel.model import Bagel
from unigrpo.models.bagel.packing import Noised, pack, splits_of
from unigrpo.types import Given, GivenPicture, Thought

SYSTEM, PROMPT, OTHER = Given(token_ids=(1, 2, 3)), Given(token_ids=(4, 5)), Given(token_ids=(6,))
SAID = Thought(token_ids=(7, 8), behavior_logp=(0.0, 0.0), truncated=True, policy_version=0)
ENDED = Thought(token_ids=(9, SEEING.eos_token_id), behavior_logp=(0.0, 0.0), truncated=False, policy_version=0)
GRID = (4, 6)


def picture(seed: int) -> GivenPicture:
    generator = torch.Generator().manual_seed(seed)
    return GivenPicture(
        latent_LC=torch.randn(24, SEEING.latent_channels, generator=generator),
        grid_hw=GRID,
        seen_HW3=torch.randint(0, 256, (20, 32, 3), dtype=torch.uint8, generator=generator),
    )


CAT, DOG = picture(0), picture(1)
EDITS: list[list[ContextSpan]] = [
    [SYSTEM, CAT, PROMPT, SAID],
    [SYSTEM, CAT, PROMPT, ENDED],
    [SYSTEM, DOG, PROMPT, SAID],
    [SYSTEM, OTHER, SAID],
    [OTHER, ENDED],
    [SYSTEM, OTHER],
    [SYSTEM, CAT, PROMPT, SAID],
]


@pytest.fixture
def model() -> Bagel:
    """In float64, so that equalities are sharp."""
    return random_model(1, SEEING).double()


def packed_velocity(model: Bagel, spans: list[ContextSpan], x_LC: torch.Tensor, t: float) -> torch.Tensor:
    """By the training forward: no context, one sample alone in its row."""
    row = pack([[*splits_of(spans, model.config), Noised(x_LC, t, GRID)]], model.config, device=x_LC.device, dtype=model.dtype)
    return model(row).velocity_NC


def velocities(model: Bagel, context: Context, x_SLC: torch.Tensor, t: float) -> torch.Tensor:
    return model.velocity(x_SLC, torch.full((len(x_SLC),), t, dtype=torch.float64), context, GRID)


@pytest.mark.parametrize("reader", [read, read_thoughts])
def test_a_context_holds_what_the_training_forward_sees(model: Bagel, reader: Any) -> None:
    x_SLC = torch.randn(len(EDITS), 24, SEEING.latent_channels, dtype=torch.float64)
    context = reader(model, EDITS)
    assert len({tuple(row) for row in context.position_S[:, None].tolist()}) > 1
    for sample, v_LC in enumerate(velocities(model, context, x_SLC, 0.3)):
        assert_close(v_LC, packed_velocity(model, EDITS[sample], x_SLC[sample], 0.3), rtol=0, atol=1e-10)


def test_what_is_shared_is_read_once(model: Bagel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    reads = model.read

    def counted(samples: Any) -> Context:
        seen.append(len(samples))
        return reads(samples)

    prefilled: list[int] = []
    prefills = model.prefill

    def counted_rows(ids_ST: torch.Tensor, *rest: Any) -> Any:
        prefilled.append(len(ids_ST))
        return prefills(ids_ST, *rest)

    monkeypatch.setattr(model, "read", counted)
    monkeypatch.setattr(model, "prefill", counted_rows)
    again = GivenPicture(latent_LC=CAT.latent_LC, grid_hw=GRID, seen_HW3=CAT.seen_HW3)
    read_thoughts(model, [EDITS[0], EDITS[1], EDITS[0], [SYSTEM, again, PROMPT, SAID]])
    assert prefilled == [3]
    copied = replace(SAID)
    read_thoughts(model, [[PROMPT, SAID], [PROMPT, copied], [PROMPT, SAID]])
    assert prefilled == [3, 2]
    read_thoughts(model, [[PROMPT], [PROMPT], [OTHER]])
    assert prefilled == [3, 2, 2]
    assert seen == [2, 1, 1]
    seen.clear()
    read(model, [[SYSTEM], [SYSTEM], [Given(token_ids=(1, 2, 3))]])
    read(model, [[], []])
    assert seen == [1, 1]


def test_the_contexts_that_guidance_compares_with() -> None:
    edit, paint, plain = EDITS[0], EDITS[3], EDITS[4]
    assert without_last_text(edit) == [SYSTEM, CAT]
    assert without_last_text(paint) == [SYSTEM]
    assert without_last_text(plain) == []
    assert without_last_text([CAT, PROMPT]) == [CAT]
    assert without_pictures(edit) == [SYSTEM, PROMPT]
    assert without_pictures(plain) == [OTHER]
